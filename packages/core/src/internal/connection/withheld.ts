/**
 * What a driver threw, as it may be shown: its name and code, and where it came from, and none of its words, which repeat
 * rows and keys (`Key (email)=(…) already exists`). Whoever reads its fields by their names finds them.
 *
 * What stands in its place is a true error, and no proxy of one: only such a one can be cloned and posted to a worker. Its
 * fields are hidden getters, which nothing prints and nothing clones.
 */
import { NodeInspectSymbol } from "effect/Inspectable"

const originals = new WeakMap<object, object>()
const standIns = new WeakMap<object, object>()

const said = "its words are not shown, for they may hold values: they are `original` of the error"

/** A word, as names and tags of errors are: what else is called so may be anything. */
const word = /^(?:\(FiberFailure\) )?[\w$.:/@#-]{1,128}$/

/** Errors with a tag whose words are those of others, of the data that did not fit, or of a request with its address. */
const repeating: ReadonlySet<string> = new Set(["ParseError", "UnknownException", "RequestError", "ResponseError"])

/** Calls of the operating system about connections: what went wrong with them names addresses alone. */
const aboutConnections: ReadonlySet<unknown> = new Set(["connect", "read", "write", "getaddrinfo"])

/** Where Effect says in which span something failed. */
const spanAnnotation = Symbol.for("effect/SpanAnnotation")

const fieldOf = (error: object, name: PropertyKey): unknown => {
  try {
    return Reflect.get(error, name, error)
  } catch {
    return undefined
  }
}

const textOf = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined)

/** Errors of ours, and of others who say with a tag what they are, say nothing that is not to be shown. */
const isTagged = (error: object): boolean => {
  const tag = fieldOf(error, "_tag")
  return typeof tag === "string" && !repeating.has(tag) && typeof fieldOf(error, "message") === "string"
}

/** A code is one word: what else is called so may be anything. */
const codeOf = (error: object): string | number | undefined => {
  const code = fieldOf(error, "code")
  return typeof code === "number" || (typeof code === "string" && /^[\w.:-]{1,64}$/.test(code)) ? code : undefined
}

const messageOf = (error: object): string => {
  const message = textOf(fieldOf(error, "message"))
  if (message !== undefined) {
    // What was withheld before, and came back as data.
    if (message.replace(/^\[[\w.:-]{1,64}\] /, "") === said || isTagged(error)) return message
    if (error instanceof Error && aboutConnections.has(fieldOf(error, "syscall"))) return message
  }
  const code = codeOf(error)
  return code === undefined ? said : `[${code}] ${said}`
}

/** The lines of a stack. What begins as one in the words of an error is none without a place in a program. */
const framesOf = (error: object): string =>
  (textOf(fieldOf(error, "stack")) ?? "")
    .replace(textOf(fieldOf(error, "message")) ?? "", "")
    .split("\n")
    .filter((line) => /^\s+at (?:.*[:(]\d+:\d+|.*<anonymous>|.*\bnative)\)?$/.test(line))
    .join("\n")

const stackOf = (error: object): string => [headOf(error), framesOf(error)].filter((part) => part !== "").join("\n")

const wordOf = (value: unknown): string | undefined =>
  typeof value === "string" && word.test(value) ? value : undefined

/** Rows and functions have names as well, and theirs are none to be shown. */
const nameOf = (error: object): string => {
  const name = error instanceof Error || isTrueError(error) ? wordOf(fieldOf(error, "name")) : undefined
  return name ?? wordOf(fieldOf(error, "_tag")) ?? "Error"
}

const headOf = (error: object): string => `${nameOf(error)}: ${messageOf(error)}`

/** What an error of others holds as a text are words of theirs too. */
const within = (value: unknown): unknown => (typeof value === "string" ? said : withheld(value))

const errorsOf = (error: object): unknown => {
  const errors = fieldOf(error, "errors")
  return Array.isArray(errors) ? errors.map(within) : errors
}

/** The span by its name and parents: what it ended with is the error itself, and would be printed with it. */
const spanOf = (error: object): unknown => {
  const span = fieldOf(error, spanAnnotation)
  return typeof span === "object" && span !== null ? Object.create(span) : span
}

/** What is told of it in other words than its own. */
const told: ReadonlyMap<PropertyKey, (error: object) => unknown> = new Map<PropertyKey, (error: object) => unknown>([
  ["name", nameOf],
  ["message", messageOf],
  ["stack", stackOf],
  ["cause", (error) => within(fieldOf(error, "cause"))],
  ["errors", errorsOf],
  [spanAnnotation, spanOf],
  ["toString", (error) => () => headOf(error)],
  ["toJSON", (error) => () => ({ name: nameOf(error), code: codeOf(error), message: messageOf(error) })],
  [NodeInspectSymbol, (error) => () => `[${headOf(error)}]`]
])

const readOf = (error: object, name: PropertyKey): unknown => {
  const own = told.get(name)
  if (own !== undefined) return own(error)
  const value: unknown = Reflect.get(error, name, error)
  // Methods may ask for what is private to the error itself.
  return typeof value === "function" && name !== "constructor" ? value.bind(error) : value
}

/** Whether it can be cloned: neither the proxies that Effect makes of what fails in a span can, nor objects at large. */
const isTrueError = (error: object): boolean => Object.prototype.toString.call(error) === "[object Error]"

/** Whether it may be shown as it is, with all that caused it. */
const isShown = (error: unknown, depth = 0): boolean =>
  typeof error !== "object" || error === null
    ? typeof error !== "string"
    : originals.has(error) ||
      (depth < 8 && isTrueError(error) && isTagged(error) && isShown(fieldOf(error, "cause"), depth + 1))

/** What errors of one class and with the same fields have in common: the prototype of what stands for them. */
interface Kind {
  readonly names: ReadonlyArray<PropertyKey>
  readonly prototype: object
}

const kinds = new WeakMap<object, Map<string, Kind>>()
const maxKinds = 64

const kindOf = (error: object): Kind => {
  const prototype: object = Object.getPrototypeOf(error) ?? Object.prototype
  const names: Array<PropertyKey> = Reflect.ownKeys(error)
  for (const name of beside) if (Reflect.has(error, name)) names.push(name)
  const key = names.map(String).join()
  const known = kinds.get(prototype)
  const found = known?.get(key)
  if (found?.names.every((name, index) => name === names[index]) === true) return found
  const kind = { names, prototype: prototypeOf(prototype, names) }
  if (known === undefined) kinds.set(prototype, new Map([[key, kind]]))
  else if (known.size < maxKinds) known.set(key, kind)
  return kind
}

/** What an error may have that is no field of its own. */
const beside = ["cause", "errors", spanAnnotation]

const prototypeOf = (prototype: object, names: ReadonlyArray<PropertyKey>): object => {
  const target: object = Object.create(prototype)
  for (const name of names)
    Object.defineProperty(target, name, { value: undefined, writable: true, configurable: true })
  return new Proxy(target, {
    get: (_, name, stand: object) => {
      const error = originals.get(stand)
      return error === undefined ? Reflect.get(target, name, stand) : readOf(error, name)
    },
    set: (_, name, value, stand: object) => {
      const error = originals.get(stand)
      return error === undefined ? Reflect.set(target, name, value, stand) : Reflect.set(error, name, value)
    }
  })
}

const stackAttributes: PropertyDescriptor & ThisType<object> = {
  get() {
    const error = originals.get(this)
    return error === undefined ? undefined : stackOf(error)
  },
  set(value: unknown) {
    const error = originals.get(this)
    if (error !== undefined) Reflect.set(error, "stack", value)
  },
  enumerable: false,
  configurable: true
}

const standInOf = (error: object): object => {
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 0
  const stand = new Error(messageOf(error))
  Error.stackTraceLimit = limit
  originals.set(stand, error)
  Object.setPrototypeOf(stand, kindOf(error).prototype)
  return Object.defineProperty(stand, "stack", stackAttributes)
}

/** The error as it may be shown; texts, and what was shown before, are as they are. */
export const withheld = (error: unknown): unknown => {
  if ((typeof error !== "object" && typeof error !== "function") || error === null) return error
  if (typeof error === "object" && isShown(error)) return error
  const known = standIns.get(error)
  if (known !== undefined) return known
  const stand = standInOf(error)
  standIns.set(error, stand)
  return stand
}

/** What was withheld, or the error itself. */
export const originalOf = (error: unknown): unknown =>
  typeof error === "object" && error !== null ? (originals.get(error) ?? error) : error
