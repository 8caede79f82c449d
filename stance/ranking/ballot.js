// The ballot of the ranking page: a question, its answers, and the places that the voter gives them.
//
// In: `data` with the item's key, the question, the answers in the order shown, an earlier vote, and the words in the
// language of the page. Out: the trigger `ballot` with the ranks, and the trigger `back` to open the vote before.
// All texts are set as text, so that an answer cannot format the page.

const ballots = new WeakMap();

export default function ({ parentElement, data, setTriggerValue }) {
  const before = ballots.get(parentElement);
  before?.close();
  const ballot = new Ballot(parentElement, data, setTriggerValue);
  // The page may run again at any time. What the voter has done so far on this ballot stays.
  const again = before?.data.key === data.key && (before.data.attempt === data.attempt || data.failed);
  if (again) ballot.goOn(before, before.sent && before.data.attempt === data.attempt);
  ballots.set(parentElement, ballot);
  return () => ballot.close();
}

const make = (tag, name, text = "") => {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
};

class Ballot {
  constructor(root, data, send) {
    Object.assign(this, { data, send, words: data.words });
    this.places = grouped(data.ranks);
    this.allBad = data.all_bad;
    this.joins = false; // whether the next answer shares the last place
    this.history = [];
    this.sent = false;
    this.began = performance.now();
    this.place = root.querySelector(".ballot");
    this.wasTyping = Boolean(this.place.querySelector(".reason:focus"));
    this.build();
    this.onKey = (event) => this.press(event);
    document.addEventListener("keydown", this.onKey, true); // before Streamlit, which runs the page again at R
    this.paint();
  }

  close() {
    document.removeEventListener("keydown", this.onKey, true);
  }

  goOn({ places, allBad, joins, history, began, reason }, sent) {
    Object.assign(this, { places, allBad, joins, history, began, sent });
    this.reason.value = reason.value;
    if (this.wasTyping) this.reason.focus();
    this.paint();
  }

  build() {
    const { data, words } = this;
    this.place.replaceChildren();
    this.place.dataset.key = data.key;
    this.place.append(make("p", "question", data.prompt));
    const list = make("div", "answers");
    this.cards = data.answers.map((text, index) => this.card(list, text, index));
    this.reason = make("input", "reason");
    this.reason.value = data.reason;
    this.reason.maxLength = 300;
    this.reason.placeholder = this.reason.ariaLabel = words.reason;
    this.hint = make("p", "hint");
    this.hint.setAttribute("role", "status");
    const row = make("div", "actions");
    this.tie = this.button(row, words.tie, "T", () => this.tieNext());
    this.bad = this.button(row, words.all_bad, "B", () => this.change(() => (this.allBad = !this.allBad)));
    this.button(row, words.skip, "S", () => this.finish({ skipped: true }));
    this.undo = this.button(row, words.undo, "Z", () => this.back());
    this.save = this.button(row, words.save, "↵", () => this.finish({}));
    this.save.classList.add("save");
    this.place.append(list, this.hint, this.reason, row);
  }

  card(list, text, index) {
    const card = make("button", "card");
    card.type = "button";
    card.append(make("span", "number", String(index + 1)), make("span", "text", text), make("span", "place"));
    this.onClick(card, () => this.put(index));
    list.append(card);
    return card;
  }

  button(row, label, key, act) {
    const button = make("button", "action", label);
    button.type = "button";
    const shortcut = make("kbd", "", key);
    shortcut.ariaHidden = "true";
    button.append(shortcut);
    this.onClick(button, act);
    row.append(button);
    return button;
  }

  onClick(button, act) {
    button.addEventListener("click", (event) => {
      if (event.detail) button.blur(); // after a click Enter saves, and does not press the button again
      act();
    });
  }

  press(event) {
    const target = event.composedPath()[0];
    if (target === this.reason) event.stopPropagation(); // Streamlit takes the letters typed here for its own keys
    if (event.isComposing || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target === this.reason) {
      if (event.key === "Escape") this.reason.blur();
      if (event.key !== "Enter") return;
    } else if (target.matches?.("input, textarea, select, [contenteditable], [role=combobox]")) return;
    else if (event.key === "Enter" && target.matches?.("button, a, summary, [role]")) return;
    const number = Number(event.key);
    const act = {
      Enter: () => this.finish({}), t: () => this.tieNext(), z: () => this.back(), r: () => this.reason.focus(),
      b: () => this.change(() => (this.allBad = !this.allBad)), s: () => this.finish({ skipped: true }),
    }[event.key.length > 1 ? event.key : event.key.toLowerCase()];
    if (number >= 1 && number <= this.cards.length) this.put(number - 1);
    else if (act) act();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  change(act) {
    if (this.sent) return;
    this.history.push([structuredClone(this.places), this.allBad, this.joins]);
    act();
    this.paint();
  }

  put(index) {
    this.change(() => {
      const placed = this.places.flat().includes(index);
      const others = this.places.map((group) => group.filter((other) => other !== index));
      this.places = others.filter((group) => group.length);
      if (!placed && this.joins && this.places.length) this.places.at(-1).push(index);
      else if (!placed) this.places.push([index]);
      this.joins = this.allBad = false;
    });
  }

  tieNext() {
    this.change(() => {
      this.allBad = false;
      if (this.places.length) this.joins = !this.joins;
      else this.places = [this.cards.map((_, index) => index)];
    });
  }

  back() {
    if (this.sent) return;
    if (this.history.length) {
      [this.places, this.allBad, this.joins] = this.history.pop();
      this.paint();
    } else if (this.data.can_go_back) {
      this.sent = true;
      this.send("back", this.data.key);
      this.paint();
    }
  }

  // Answers without a place share the last one.
  groups() {
    const placed = this.places.flat();
    const rest = this.cards.map((_, index) => index).filter((index) => !placed.includes(index));
    return rest.length && placed.length ? [...this.places, rest] : this.places;
  }

  finish({ skipped = false }) {
    if (this.sent) return;
    if (!skipped && !this.allBad && !this.places.length) {
      this.hint.textContent = this.words.rank_first;
      return;
    }
    const ranks = this.cards.map((_, index) => this.groups().findIndex((group) => group.includes(index)) + 1);
    this.sent = true;
    this.paint();
    this.send("ballot", {
      key: this.data.key, skipped, all_bad: this.allBad && !skipped,
      ranks: skipped ? [] : this.allBad ? ranks.map(() => 1) : ranks,
      reason: this.reason.value, seconds: Math.round(performance.now() - this.began) / 1000,
    });
  }

  paint() {
    this.cards.forEach((card, index) => {
      const rank = this.places.findIndex((group) => group.includes(index)) + 1;
      card.classList.toggle("placed", rank > 0 && !this.allBad);
      card.classList.toggle("bad", this.allBad);
      card.ariaPressed = String(rank > 0);
      const label = rank ? this.words.place.replace("{rank}", rank) : "";
      card.querySelector(".place").textContent = this.allBad ? this.words.bad : label;
    });
    this.tie.classList.toggle("on", this.joins);
    this.bad.classList.toggle("on", this.allBad);
    this.undo.disabled = this.sent || !(this.history.length || this.data.can_go_back);
    this.save.disabled = this.sent || !(this.allBad || this.places.length);
    this.place.classList.toggle("sent", this.sent);
    this.hint.textContent = this.told();
  }

  told() {
    if (this.sent) return this.words.saving;
    if (this.joins) return this.words.joins;
    if (this.allBad) return this.words.no_pairs;
    if (!this.places.length) return this.words.begin;
    const groups = this.groups();
    const pairs = groups.flatMap((better, at) =>
      groups.slice(at + 1).flat().flatMap((worse) => better.map((index) => `${index + 1} > ${worse + 1}`)));
    return pairs.length ? `${this.words.pairs} ${pairs.join(", ")}` : this.words.no_pairs;
  }
}

function grouped(ranks) {
  const levels = [...new Set(ranks)].sort((a, b) => a - b);
  return levels.map((level) => ranks.flatMap((rank, index) => (rank === level ? [index] : [])));
}
