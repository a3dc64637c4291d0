/**
 * What providers say of their rate limits in the headers of an answer: OpenAI and those that imitate it, Azure, Groq,
 * Anthropic, and the header of the IETF's draft that Hugging Face sends.
 */
import type { LlmError } from "../LlmError.ts"
import type { RateLimit, RateLimits } from "../LlmResponse.ts"
import { delayOf, type ResponseHeaders } from "./classify.ts"

type Kind = "requests" | "tokens" | "inputTokens" | "outputTokens"

type Draft = { limit?: number; remaining?: number; resetAfter?: number }

const kinds: Readonly<Record<string, Kind>> = {
  requests: "requests",
  tokens: "tokens",
  "input-tokens": "inputTokens",
  "output-tokens": "outputTokens"
}

const whole = (text: string | undefined): number | undefined => {
  const trimmed = text?.trim().replace(/,/g, "") ?? ""
  return /^\d{1,15}(?:\.\d+)?$/.test(trimmed) ? Number(trimmed) : undefined
}

// A number this large is no wait but a point in time, in seconds or in milliseconds since 1970.
const leastSeconds = 1e9
const leastMillis = 1e12

/** The milliseconds until a limit is whole again: seconds, Go's durations, a point in time. */
const resetOf = (text: string | undefined, now: number): number | undefined => {
  const trimmed = text?.trim() ?? ""
  if (trimmed === "") return undefined
  const number = whole(trimmed)
  if (number !== undefined) {
    if (number >= leastMillis) return Math.max(0, Math.ceil(number - now))
    if (number >= leastSeconds) return Math.max(0, Math.ceil(number * 1000 - now))
    return Math.ceil(Math.round(number * 1e9) / 1e6)
  }
  if (/^\d{4}-\d\d-\d\dT/i.test(trimmed)) {
    const at = Date.parse(trimmed)
    return Number.isNaN(at) ? undefined : Math.max(0, at - now)
  }
  return delayOf(trimmed)
}

const named = /^(?:x|anthropic)-ratelimit-(.+)$/
// OpenAI puts what is said before of what it is said, Anthropic behind.
const forms = [
  /^(limit|remaining|reset)-(requests|tokens|input-tokens|output-tokens)$/,
  /^(requests|tokens|input-tokens|output-tokens)-(limit|remaining|reset)$/
]

/** `"api";r=489;t=87` of the IETF's draft, or `limit=100, remaining=50, reset=7` of an earlier one. */
const fields = (text: string | undefined, separator: RegExp): Readonly<Record<string, string>> => {
  const found: Record<string, string> = {}
  for (const item of (text ?? "").split(separator)) {
    const match = /^\s*([a-z]+)\s*=\s*"?([^"]*?)"?\s*$/i.exec(item)
    if (match !== null) found[(match[1] ?? "").toLowerCase()] ??= match[2] ?? ""
  }
  return found
}

/**
 * The limits in the headers of a response, by lower-case name; none if they say nothing of them. Points in time are
 * counted from the response's own date, so that a clock that is wrong does not matter, or else from `now`.
 */
export const rateLimitsOf = (headers: ResponseHeaders, now: number): RateLimits | undefined => {
  // Most say nothing.
  let silent = true
  for (const name in headers) if (name.includes("ratelimit")) silent = false
  if (silent) return undefined

  let found: Partial<Record<Kind, Draft>> | undefined
  const dated = headers["date"] === undefined ? Number.NaN : Date.parse(headers["date"])
  const from = Number.isNaN(dated) ? now : dated

  const put = (kind: Kind, what: keyof Draft, value: number | undefined) => {
    if (value === undefined) return
    found ??= {}
    const draft = found[kind] ?? {}
    found[kind] = draft
    draft[what] ??= value
  }
  const read = (kind: Kind, what: string | undefined, text: string | undefined) => {
    if (what === "reset") put(kind, "resetAfter", resetOf(text, from))
    else if (what === "limit" || what === "remaining") put(kind, what, whole(text))
  }

  for (const name in headers) {
    const rest = named.exec(name)?.[1]
    if (rest === undefined) continue
    const [first, second] = forms
    const front = first?.exec(rest)
    if (front != null) {
      const kind = kinds[front[2] ?? ""]
      if (kind !== undefined) read(kind, front[1], headers[name])
      continue
    }
    const back = second?.exec(rest)
    const kind = kinds[back?.[1] ?? ""]
    if (back != null && kind !== undefined) read(kind, back[2], headers[name])
  }
  if (found === undefined) {
    // Without a word of what they limit they are limits of requests.
    for (const what of ["limit", "remaining", "reset"]) {
      read("requests", what, headers[`x-ratelimit-${what}`] ?? headers[`ratelimit-${what}`])
    }
    const draft = fields(headers["ratelimit"], /[;,]/)
    const policy = fields(headers["ratelimit-policy"], /[;,]/)
    read("requests", "remaining", draft["r"] ?? draft["remaining"])
    read("requests", "reset", draft["t"] ?? draft["reset"])
    read("requests", "limit", draft["limit"] ?? policy["q"])
  }
  return found as { readonly [K in Kind]?: RateLimit } | undefined
}

/** The error with what the headers of its response said of the limits. */
export const withRateLimits = (error: LlmError, rateLimits: RateLimits | undefined): LlmError =>
  rateLimits === undefined || error.rateLimits !== undefined ? error : error.with({ rateLimits })
