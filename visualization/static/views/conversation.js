// A conversation as a tree: saying something otherwise begins a branch, and the old one stays.

export class Conversation {
  constructor() {
    this.root = { role: "", content: "", parent: null, children: [], chosen: 0 };
  }

  /** Put a message below another, and follow it. */
  add(parent, message) {
    const node = { content: "", ...message, parent, children: [], chosen: 0 };
    parent.chosen = parent.children.push(node) - 1;
    return node;
  }

  /** Say something at the end of the shown branch, or beside the message that it replaces. */
  say(role, content, instead = null) {
    return this.add(instead ? instead.parent : (this.path().at(-1) ?? this.root), { role, content });
  }

  /** Return the messages of the shown branch. */
  path() {
    const found = [];
    for (let node = this.root; node.children.length; ) {
      node = node.children[node.chosen];
      found.push(node);
    }
    return found;
  }

  /** Return the conversation up to a message, as the server takes it; replies that failed before a word are left out with their question. */
  upTo(last) {
    const found = [];
    for (let node = last; node !== this.root; node = node.parent) found.unshift({ role: node.role, content: node.content });
    return found.filter((m, i) => m.content || (m.role === "user" && i === found.length - 1)).filter((m, i, all) => m.role !== all[i + 1]?.role);
  }

  /** Show the next or the previous sibling of a message. */
  turn(message, step) {
    const { parent } = message;
    parent.chosen = Math.min(Math.max(parent.children.indexOf(message) + step, 0), parent.children.length - 1);
  }
}
