// What is not mutated: words for people, and the keys that only have to be unique.

/** Messages, descriptions: text with white space in it. Tags, reasons, states, headers and metrics have none. */
const words = {
  shouldIgnore(path) {
    if (path.isStringLiteral() && /\s/.test(path.node.value)) return "words for people"
    if (path.isTemplateLiteral() && path.node.quasis.some((quasi) => /\s/.test(quasi.value.raw))) {
      return "words for people"
    }
    return undefined
  }
}

/** `Symbol.for("…")`, `Context.Tag("…")`, `Context.Reference<…>()("…")`: any other key would do as well. */
const identity = {
  shouldIgnore(path) {
    if (!path.isStringLiteral() || !path.parentPath.isCallExpression()) return undefined
    let callee = path.parentPath.node.callee
    if (callee.type === "CallExpression") callee = callee.callee
    if (callee.type !== "MemberExpression" || callee.object.type !== "Identifier") return undefined
    const name = `${callee.object.name}.${callee.property.name}`
    return name === "Symbol.for" || name === "Context.Tag" || name === "Context.Reference"
      ? "a key of its own"
      : undefined
  }
}

export const strykerPlugins = [
  { kind: "Ignore", name: "words", value: words },
  { kind: "Ignore", name: "identity", value: identity }
]
