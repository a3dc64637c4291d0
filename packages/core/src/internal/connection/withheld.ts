/**
 * What a driver threw, as it may be shown: its name and code, and where it came from, and none of its words, which repeat
 * rows and keys (`Key (email)=(…) already exists`). Whoever reads its fields by their names finds them.
 */
import { NodeInspectSymbol } from "effect/Inspectable"

const originals = new WeakMap<object, object>()

const said = "its words are not shown, for they may hold values: they are `original` of the error"

/** Calls of the operating system about connections: what went wrong with them names addresses alone. */
const aboutConnections: ReadonlySet<unknown> = new Set(["connect", "read", "write", "getaddrinfo"])

const fieldOf = (error: object, name: string): unknown => Reflect.get(error, name, error)

const textOf = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined)

const messageOf = (error: object): string => {
  if (error instanceof Error && aboutConnections.has(fieldOf(error, "syscall"))) return error.message
  const code = fieldOf(error, "code")
  return typeof code === "string" || typeof code === "number" ? `[${code}] ${said}` : said
}

const framesOf = (error: object): string =>
  (textOf(fieldOf(error, "stack")) ?? "")
    .split("\n")
    .filter((line) => /^\s+at /.test(line))
    .join("\n")

const headOf = (error: object): string => `${textOf(fieldOf(error, "name")) ?? "Error"}: ${messageOf(error)}`

/** Errors of ours, and of others who say with a tag what they are, hold nothing that is not to be shown. */
const isTagged = (error: object): boolean => typeof fieldOf(error, "_tag") === "string"

/** The error as it may be shown; texts, and what was shown before, are as they are. */
export const withheld = (error: unknown): unknown => {
  if (typeof error !== "object" || error === null || originals.has(error) || isTagged(error)) return error
  const shown = new Map<PropertyKey, () => unknown>([
    ["message", () => messageOf(error)],
    ["stack", () => [headOf(error), framesOf(error)].filter((part) => part !== "").join("\n")],
    ["cause", () => withheld(fieldOf(error, "cause"))],
    ["toString", () => () => headOf(error)],
    ["toJSON", () => () => ({ name: fieldOf(error, "name"), code: fieldOf(error, "code"), message: messageOf(error) })],
    [NodeInspectSymbol, () => () => `[${headOf(error)}]`]
  ])
  // What is inspected is what a proxy stands for, and not the proxy.
  const stand: object = Object.create(Error.prototype)
  for (const [name, get] of shown) {
    if (name !== "cause") Object.defineProperty(stand, name, { get, enumerable: false, configurable: true })
  }
  const proxy = new Proxy(stand, {
    get: (_, name) => {
      const own = shown.get(name)
      if (own !== undefined) return own()
      const value: unknown = Reflect.get(error, name, error)
      return typeof value === "function" && name !== "constructor" ? value.bind(error) : value
    },
    has: (_, name) => name in error,
    getPrototypeOf: () => Object.getPrototypeOf(error)
  })
  originals.set(proxy, error)
  return proxy
}

/** What was withheld, or the error itself. */
export const originalOf = (error: unknown): unknown =>
  typeof error === "object" && error !== null ? (originals.get(error) ?? error) : error
