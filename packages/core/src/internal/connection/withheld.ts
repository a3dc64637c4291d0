/**
 * What a driver threw, as it may be shown: its name and code, and where it came from, and none of its words, which repeat
 * rows and keys (`Key (email)=(…) already exists`). Whoever reads its fields by their names finds them.
 */
import { NodeInspectSymbol } from "effect/Inspectable"

const originals = new WeakMap<object, object>()
const standIns = new WeakMap<object, object>()

const said = "its words are not shown, for they may hold values: they are `original` of the error"

/** Errors with a tag whose words are those of others, or of the data that did not fit. */
const repeating: ReadonlySet<string> = new Set(["ParseError", "UnknownException"])

/** Calls of the operating system about connections: what went wrong with them names addresses alone. */
const aboutConnections: ReadonlySet<unknown> = new Set(["connect", "read", "write", "getaddrinfo"])

const fieldOf = (error: object, name: string): unknown => Reflect.get(error, name, error)

const textOf = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined)

/** Errors of ours, and of others who say with a tag what they are, hold nothing that is not to be shown. */
const isTagged = (error: object): boolean => {
  const tag = fieldOf(error, "_tag")
  return typeof tag === "string" && !repeating.has(tag)
}

const messageOf = (error: object): string => {
  if (isTagged(error)) return textOf(fieldOf(error, "message")) ?? ""
  if (error instanceof Error && aboutConnections.has(fieldOf(error, "syscall"))) return error.message
  const code = fieldOf(error, "code")
  return typeof code === "string" || typeof code === "number" ? `[${code}] ${said}` : said
}

/** The lines of a stack. What begins as one in the words of an error is none without a place in a program. */
const framesOf = (error: object): string =>
  (textOf(fieldOf(error, "stack")) ?? "")
    .replace(textOf(fieldOf(error, "message")) ?? "", "")
    .split("\n")
    .filter((line) => /^\s+at (?:.*[:(]\d+:\d+|.*<anonymous>|.*\bnative)\)?$/.test(line))
    .join("\n")

const headOf = (error: object): string => `${textOf(fieldOf(error, "name")) ?? "Error"}: ${messageOf(error)}`

/** Whether it may be shown as it is, with all that caused it. */
const isShown = (error: unknown, depth = 0): boolean =>
  typeof error !== "object" ||
  error === null ||
  originals.has(error) ||
  (depth < 8 && isTagged(error) && isShown(fieldOf(error, "cause"), depth + 1))

/** The error as it may be shown; texts, and what was shown before, are as they are. */
export const withheld = (error: unknown): unknown => {
  if (typeof error !== "object" || error === null || isShown(error)) return error
  const known = standIns.get(error)
  if (known !== undefined) return known
  const shown = new Map<PropertyKey, () => unknown>([
    ["message", () => messageOf(error)],
    ["stack", () => [headOf(error), framesOf(error)].filter((part) => part !== "").join("\n")],
    ["cause", () => withheld(fieldOf(error, "cause"))],
    ["errors", () => errorsOf(error)],
    ["toString", () => () => headOf(error)],
    ["toJSON", () => () => ({ name: fieldOf(error, "name"), code: fieldOf(error, "code"), message: messageOf(error) })],
    [NodeInspectSymbol, () => () => `[${headOf(error)}]`]
  ])
  // What is inspected is what a proxy stands for, and not the proxy.
  const stand: object = Object.create(Error.prototype)
  for (const [name, get] of shown) {
    if (name === "cause" || name === "errors") continue
    Object.defineProperty(stand, name, { get, enumerable: false, configurable: true })
  }
  const proxy = new Proxy(stand, {
    get: (_, name) => {
      const own = shown.get(name)
      if (own !== undefined) return own()
      const value: unknown = Reflect.get(error, name, error)
      return typeof value === "function" && name !== "constructor" ? value.bind(error) : value
    },
    set: (_, name, value) => Reflect.set(error, name, value),
    has: (_, name) => name in error,
    getPrototypeOf: () => Object.getPrototypeOf(error)
  })
  originals.set(proxy, error)
  standIns.set(error, proxy)
  return proxy
}

const errorsOf = (error: object): unknown => {
  const errors = fieldOf(error, "errors")
  return Array.isArray(errors) ? errors.map(withheld) : errors
}

/** What was withheld, or the error itself. */
export const originalOf = (error: unknown): unknown =>
  typeof error === "object" && error !== null ? (originals.get(error) ?? error) : error
