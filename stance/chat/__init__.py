"""The web page to chat with the endpoint: `command` serves it, `page` is the page, `judge` labels the answers."""
