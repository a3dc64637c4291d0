/**
 * What may be shown of a value in a log line, a health report or an error: secrets are taken out in depth, by the name of
 * the field, by type (`Redacted`) and, in text, by form.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Either from "effect/Either"
import * as HashMap from "effect/HashMap"
import * as HashSet from "effect/HashSet"
import * as List from "effect/List"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"

/**
 * What stands in the place of a secret.
 *
 * @since 0.1.0
 * @category constants
 */
export const placeholder = "<redacted>"

const secretWords = [
  "password",
  "passwd",
  "passphrase",
  "passcode",
  "pwd",
  "secret",
  "token",
  "apikey",
  "accesskey",
  "privatekey",
  "signingkey",
  "encryptionkey",
  "masterkey",
  "sharedkey",
  "accountkey",
  "subscriptionkey",
  "authorization",
  "credential",
  "cookie",
  "connectionstring",
  "sessionid",
  "sessiontoken",
  "signature"
]

const secretNames = new Set(["auth", "pass", "pin", "otp", "jwt", "bearer", "sid"])

const countedTokens = /(?:count|limit|max|min|total|per|used|usage|input|output|prompt|completion|cached|budget)/

const maxNameLength = 256

/**
 * Whether a field of this name holds a secret: `password`, `api_key`, `Authorization`, `clientSecret`, `refresh-token`,
 * `DB_PASS`, … Numbers of tokens (`maxTokens`, `prompt_tokens`) are not secrets.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isSecretName = (name: string): boolean => {
  const known = knownNames.get(name)
  if (known !== undefined) return known
  const found = tellsSecret(name)
  if (knownNames.size < maxKnownNames && name.length <= 64) knownNames.set(copied(name), found)
  return found
}

// The names of fields come from programs: the same few again and again, for every attribute of every span.
const knownNames = new Map<string, boolean>()
const maxKnownNames = 1_000

// A name that was cut out of a text is a view of it: kept as it is, it keeps the whole text.
const copied = (name: string): string => name.split("").join("")

const tellsSecret = (name: string): boolean => {
  const words = name
    .slice(-maxNameLength)
    .replace(/([a-z0-9])([A-Z])/g, "$1 $2")
    .toLowerCase()
    .split(/[^a-z0-9]+/)
    .filter((word) => word !== "")
  const joined = words.join("")
  if (joined.endsWith("tokens") || joined.endsWith("tokenizer")) {
    return !countedTokens.test(joined) && joined !== "tokens" && !joined.endsWith("tokenizer")
  }
  if (/token(?:s)?(?:count|limit|budget|per[a-z]+|usage|window)$/.test(joined)) {
    return false
  }
  if (words.some((word) => word === "pass") || (words.length > 0 && secretNames.has(joined))) {
    return true
  }
  return secretWords.some((word) => joined.includes(word))
}

// Every pattern here takes time in proportion to the text, whatever stands in it: a repetition begins only where a run of
// its characters does, or is bounded. What is logged is often long, and not written by friends.
const forms: ReadonlyArray<readonly [RegExp, string]> = [
  // A password, or a lone token, in the authority of a URL. Such passwords are not always encoded as they should be, so it
  // reaches to the last @ of the URL, unless what begins it is a port.
  [/(:\/\/[^\s/?#@:"'<>]*):(?!\d{1,5}[/?#])(?:(?!:\/\/)[^\s"'<>]){0,256}@/g, `$1:${placeholder}@`],
  [/\b(https?:\/\/)([^\s/?#@:"'<>]+)@/gi, `$1${placeholder}@`],
  [/\b(Bearer|Basic|Digest|Token|ApiKey)\s+[A-Za-z0-9._~+/=-]{6,}/gi, `$1 ${placeholder}`],
  [/(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?/g, placeholder],
  [/\b(?:sk|pk|rk|gsk|hf|xox[abprs]|gh[pousr]|glpat|github_pat)[-_][A-Za-z0-9_-]{12,}/g, placeholder],
  [/\bAKIA[A-Z0-9]{12,}/g, placeholder],
  [/\bAIza[A-Za-z0-9_-]{20,}/g, placeholder],
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g, placeholder]
]

/** No form without a space, a colon, an equals sign or an @ is shorter than this. */
const shortest = 14

// A name, with or without quotes (those of JSON inside JSON are escaped), and what sets it apart from its value.
const assigned = /(?<![\w.-])([\w.-]+)(?:\\*["'])?\s*[=:]\s*/g

const held = /"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|\\+["'](?:[^"'\\]|\\+[^"'\\])*|[^\s,;&"'{}()[\]<>]+/y

// Headers whose value may be of several words.
const header = /(?:authorization|cookie)$/i

const heldByHeader = /"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\r\n{}]+/y

const done = /(?:bearer|basic|token|apikey)\s+<redacted>/iy

/**
 * The text without the secrets that can be told by their form: passwords in URLs, `password=…`, `"apiKey": "…"`, bearer
 * tokens, JSON web tokens, private keys and the keys of well-known services.
 *
 * @since 0.1.0
 * @category redaction
 */
export const text = (value: string): string => {
  if (value.length < shortest && !/[\s=:@]/.test(value)) return value
  let result = value
  for (const [pattern, replacement] of forms) {
    result = result.replace(pattern, replacement)
  }
  let shown = ""
  let from = 0
  assigned.lastIndex = 0
  for (let match = assigned.exec(result); match !== null; match = assigned.exec(result)) {
    const name = match[1] ?? ""
    // Names in a text are whatever somebody wrote: they are not remembered.
    if (!(knownNames.get(name) ?? tellsSecret(name))) {
      continue
    }
    const start = assigned.lastIndex
    const ofHeader = header.test(name)
    done.lastIndex = start
    const value = ofHeader ? heldByHeader : held
    value.lastIndex = start
    const secret = ofHeader && done.test(result) ? undefined : value.exec(result)?.[0]
    if (secret === undefined) {
      continue
    }
    const mark = secret[0] === '"' || secret[0] === "'" ? secret[0] : ""
    shown += `${result.slice(from, start)}${mark}${placeholder}${mark}`
    from = start + secret.length
    assigned.lastIndex = from
  }
  return shown + result.slice(from)
}

const maxDepth = 12
const maxEntries = 1_000
const maxValues = 10_000

const tagOf = (value: object): string => {
  const tag = Reflect.get(value, "_tag")
  if (typeof tag === "string") {
    return tag
  }
  return value instanceof Error ? value.name : "UnknownError"
}

/**
 * What may be shown of an error: its tag and its message, never its fields.
 *
 * @since 0.1.0
 * @category redaction
 */
export const error = (value: unknown): { readonly tag: string; readonly message: string } => {
  if (typeof value === "string") {
    return { tag: "Error", message: text(value) }
  }
  if (typeof value === "object" && value !== null) {
    const message = Reflect.get(value, "message")
    const tag = tagOf(value)
    return { tag, message: typeof message === "string" && message !== "" ? text(message) : tag }
  }
  return { tag: "UnknownError", message: "an error without a message" }
}

const isPlain = (value: object): boolean => {
  const prototype = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

// `budget` counts what is still shown of the whole value: a wide or much shared one would be copied without end.
const visit = (value: unknown, depth: number, seen: ReadonlyArray<object>, budget: { left: number }): unknown => {
  if (--budget.left < 0) {
    return "[more]"
  }
  switch (typeof value) {
    case "string":
      return text(value)
    case "number":
      return Number.isFinite(value) ? value : String(value)
    case "bigint":
    case "symbol":
      return String(value)
    case "function":
      return `[function ${value.name || "anonymous"}]`
    case "undefined":
    case "boolean":
      return value
  }
  return typeof value === "object" && value !== null ? visitObject(value, depth, seen, budget) : null
}

const visitObject = (value: object, depth: number, seen: ReadonlyArray<object>, budget: { left: number }): unknown => {
  if (Redacted.isRedacted(value)) {
    return placeholder
  }
  if (seen.includes(value)) {
    return "[circular]"
  }
  if (depth >= maxDepth) {
    return "[too deep]"
  }
  const path = [...seen, value]
  const inner = (next: unknown): unknown => visit(next, depth + 1, path, budget)
  const entries = (all: Iterable<readonly [unknown, unknown]>): Record<string, unknown> => {
    const result: Record<string, unknown> = {}
    let count = 0
    for (const [key, held] of all) {
      if (++count > maxEntries || budget.left <= 0) {
        result["[more]"] = true
        break
      }
      if (held === undefined) {
        continue
      }
      const name = typeof key === "string" ? key : String(inner(key))
      Object.defineProperty(result, name, {
        value: isSecretName(name) && held !== null && typeof held !== "boolean" ? placeholder : inner(held),
        enumerable: true,
        configurable: true,
        writable: true
      })
    }
    return result
  }
  const list = (all: Iterable<unknown>): Array<unknown> => {
    const result: Array<unknown> = []
    for (const item of all) {
      if (result.length >= maxEntries || budget.left <= 0) {
        result.push("[more]")
        break
      }
      result.push(inner(item) ?? null)
    }
    return result
  }
  if (Array.isArray(value)) {
    return list(value)
  }
  if (value instanceof Date) {
    return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString()
  }
  if (value instanceof Uint8Array || value instanceof ArrayBuffer) {
    return `[${value.byteLength} bytes]`
  }
  if (value instanceof URL) {
    return text(value.href)
  }
  if (value instanceof Map) {
    return entries(value)
  }
  if (value instanceof Set) {
    return list(value)
  }
  if (Cause.isCause(value)) {
    return text(Cause.pretty(value))
  }
  if (Duration.isDuration(value)) {
    return Duration.format(value)
  }
  if (DateTime.isDateTime(value)) {
    return DateTime.formatIso(value)
  }
  if (Option.isOption(value)) {
    return Option.isSome(value) ? inner(value.value) : null
  }
  if (Either.isEither(value)) {
    return Either.isRight(value) ? { right: inner(value.right) } : { left: inner(value.left) }
  }
  if (HashMap.isHashMap(value)) {
    return entries(value)
  }
  if (HashSet.isHashSet(value) || Chunk.isChunk(value) || List.isList(value)) {
    return list(value)
  }
  if (value instanceof Error) {
    const described = error(value)
    const own = Object.entries(value).filter(([name]) => name !== "_tag" && name !== "message" && name !== "name")
    const cause = Reflect.get(value, "cause")
    return {
      ...described,
      ...entries(own),
      ...(cause === undefined ? {} : { cause: inner(cause) })
    }
  }
  if (isPlain(value) || "_tag" in value) {
    return entries(Object.entries(value))
  }
  return `[${value.constructor?.name ?? "object"}]`
}

/**
 * The value as JSON data without its secrets: fields with the name of a secret and `Redacted` values read `<redacted>`,
 * text goes through `text`, errors become `{ tag, message, … }`, instances of unknown classes show their class only,
 * circles are cut, and so is what is deeper than 12 levels or beyond 10,000 values.
 *
 * @since 0.1.0
 * @category redaction
 */
export const json = (value: unknown): unknown => visit(value, 0, [], { left: maxValues })

/**
 * `json` of each field of a record.
 *
 * @since 0.1.0
 * @category redaction
 */
export const record = (value: Readonly<Record<string, unknown>>): Record<string, unknown> => {
  const shown = visit({ ...value }, 0, [], { left: maxValues })
  return typeof shown === "object" && shown !== null ? { ...shown } : {}
}
