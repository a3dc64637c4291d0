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

/**
 * `Symbol.for("…")`, `Context.Tag("…")`, `Context.Reference<…>()("…")`, and the identifier of a schema's class (not its tag,
 * which comes after): any other key would do as well.
 */
const identity = {
  shouldIgnore(path) {
    if (!path.isStringLiteral() || !path.parentPath.isCallExpression()) return undefined
    const { callee } = path.parentPath.node
    const named = callee.type === "CallExpression" ? callee.callee : callee
    if (named.type !== "MemberExpression" || named.object.type !== "Identifier") return undefined
    const name = `${named.object.name}.${named.property.name}`
    const keys = named === callee ? ["Symbol.for", "Context.Tag", "Schema.TaggedError"] : ["Context.Reference"]
    return keys.includes(name) ? "a key of its own" : undefined
  }
}

export const strykerPlugins = [
  { kind: "Ignore", name: "words", value: words },
  { kind: "Ignore", name: "identity", value: identity }
]
