"""What a language model is told in Chinese when it judges an answer's stance."""

from stance.language.inquiry import inquiry

CHINESE = inquiry(
    task=(
        "你會讀到一個問題和一個回答。請判斷這個回答對問題所談的主題抱持什麼立場：支持、中立或反對。"
        "看的是對主題的立場，不是對問句的是或否；兩面都說或沒有表態就是中立。只回答其中一個詞。"
    ),
    frame="問題：{}\n回答：{}",
    words={"支持": "support", "中立": "neutral", "反對": "oppose"},
    named="支持|中立|反[對对]",
    denied="[不非無无没沒](?:是|會|能|太|怎麼)?",
)
