/**
 * Which error a provider means: one table over HTTP statuses, codes, types and wordings of all of them, and how soon it
 * wants to be asked again.
 */
import * as Duration from "effect/Duration"
import { LlmError, type Reason } from "../LlmError.ts"
import type { PartialResponse, Usage } from "../LlmResponse.ts"
import { parse } from "./sse.ts"

/** Who was asked for what: goes into every error. */
export interface CallContext {
  readonly provider: string
  readonly model: string | undefined
  readonly method: string
}

type Json = Readonly<Record<string, unknown>>

export const isRecord = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const words = (value: unknown): string | undefined =>
  typeof value === "string" && value.trim() !== "" ? value : undefined

/** An error as a provider wrote it. */
export interface Envelope {
  readonly message: string | undefined
  /** Codes, types and status names, in the order in which they tell most. */
  readonly codes: ReadonlyArray<string>
  /** A number that stands for an HTTP status. */
  readonly status: number | undefined
  readonly quotaIds: ReadonlyArray<string>
  readonly retryDelay: string | undefined
  /** What a content filter found, with its severity where it is said. */
  readonly filters?: ReadonlyArray<string> | undefined
}

const httpStatus = (value: unknown): number | undefined => {
  const number =
    typeof value === "number" ? value : typeof value === "string" && /^\d{3}$/.test(value) ? Number(value) : 0
  return number >= 400 && number <= 599 ? number : undefined
}

/** The status that an error names; Ollama passes on that of its cloud as Go writes it. */
const statusIn = (record: Json): number | undefined =>
  httpStatus(record["status_code"]) ??
  httpStatus(record["code"]) ??
  httpStatus(record["status"]) ??
  httpStatus(record["StatusCode"])

const messageOf = (value: unknown): string | undefined => {
  if (Array.isArray(value)) {
    const all = value.map(messageOf).filter((text) => text !== undefined)
    return all.length === 0 ? undefined : all.join("; ")
  }
  if (isRecord(value)) return words(value["message"]) ?? words(value["msg"])
  return words(value)
}

/** Whether anything is said at all: some servers send their error's fields with every chunk, all of them empty. */
const isBlank = (value: unknown): boolean =>
  value === undefined ||
  value === null ||
  value === "" ||
  value === 0 ||
  value === false ||
  (isRecord(value) && Object.values(value).every(isBlank))

/** What a code may look like, to be told from words, which may quote the request. */
const token = /^[\w.:/-]{1,80}$/

const fromRecord = (error: Json, outer: Json): Envelope => {
  const codes: Array<string> = []
  const quotaIds: Array<string> = []
  let status: number | undefined
  let retryDelay: string | undefined
  const filters: Array<string> = []
  const add = (value: unknown) => {
    const text = words(value)
    if (text !== undefined && !codes.includes(text)) codes.push(text)
  }
  const look = (record: Json) => {
    status ??= statusIn(record)
    for (const key of ["code", "type", "status", "error_code", "error_type", "reason"]) add(record[key])
    const results = record["content_filter_result"] ?? record["content_filter_results"]
    for (const [name, result] of Object.entries(isRecord(results) ? results : {})) {
      if (!isRecord(result) || result["filtered"] !== true) continue
      const severity = words(result["severity"])
      const shown = token.test(name) ? name : "another category"
      filters.push(severity === undefined || !token.test(severity) ? shown : `${shown} (${severity})`)
    }
    const inner = record["innererror"] ?? record["inner_error"]
    if (isRecord(inner)) look(inner)
    const details = record["details"]
    for (const detail of Array.isArray(details) ? details : [details]) {
      if (!isRecord(detail)) continue
      add(detail["error_code"])
      add(detail["reason"])
      retryDelay ??= words(detail["retryDelay"])
      const violations = detail["violations"]
      for (const violation of Array.isArray(violations) ? violations : []) {
        const id = isRecord(violation) ? words(violation["quotaId"]) : undefined
        if (id !== undefined) quotaIds.push(id)
      }
    }
  }
  look(error)
  if (outer !== error) {
    status ??= statusIn(outer)
    for (const key of ["code", "error_type"]) add(outer[key])
    if (outer["type"] !== "error") add(outer["type"])
  }
  // Mistral puts what is wrong with each field in the place of the message.
  const listed = isRecord(error["message"]) ? messageOf(error["message"]["detail"]) : undefined
  const message =
    words(error["message"]) ??
    listed ??
    messageOf(error["detail"]) ??
    messageOf(error["error"]) ??
    words(outer["message"])
  return { message, codes, status, quotaIds, retryDelay, filters }
}

/** The error in a JSON value, if it is one: the shapes of all providers, and of servers that imitate them. */
export const envelopeOf = (value: unknown, certain: boolean): Envelope | undefined => {
  if (Array.isArray(value)) return isRecord(value[0]) ? envelopeOf(value[0], certain) : undefined
  if (!isRecord(value)) return undefined
  const error = value["error"]
  if (isRecord(error) && (certain || !isBlank(error))) return fromRecord(error, value)
  if (error !== undefined && error !== null && error !== false && error !== "" && !isRecord(error)) {
    const message = messageOf(error) ?? messageOf(value)
    if (message !== undefined) return { ...fromRecord({}, value), message }
  }
  if (certain || value["object"] === "error" || value["type"] === "error") return fromRecord(value, value)
  return undefined
}

/** The error in the body of a response whose status says that it is one. */
export const envelopeOfBody = (body: string, contentType: string | undefined): Envelope => {
  const text = body.trim()
  const value = parse(text)
  const envelope = value === undefined ? undefined : envelopeOf(value, true)
  if (envelope !== undefined) return envelope
  // Some frameworks call plain words HTML.
  const html = text.startsWith("<") || (/html/i.test(contentType ?? "") && /<[a-z!/]/i.test(text))
  const message = typeof value === "string" ? words(value) : text === "" || html ? undefined : text
  return { message, codes: [], status: undefined, quotaIds: [], retryDelay: undefined }
}

/**
 * A delay as providers write it in words or in protocol buffers' JSON: `4.77s`, `634ms`, `1m2s`, `1h`. In milliseconds,
 * rounded up.
 */
export const delayOf = (text: string): number | undefined => {
  const match = /^(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?$/.exec(
    text
  )
  if (match === null || text === "") return undefined
  const [, hours, minutes, seconds, millis] = match
  const total =
    Number(hours ?? 0) * 3_600_000 + Number(minutes ?? 0) * 60_000 + Number(seconds ?? 0) * 1000 + Number(millis ?? 0)
  // A floating point product such as 4.77 * 1000 is not whole by a hair: that is no reason to wait another millisecond.
  return Math.ceil(Math.round(total * 1e6) / 1e6)
}

const hint = /\b(?:try again|retry) (?:in|after) ((?:\d+(?:\.\d+)?(?:ms|h|m|s))+)(?![a-z0-9])/i
const hintInWords = /\b(?:try again|retry) (?:in|after) (\d+(?:\.\d+)?) ?(millisecond|second|sec|minute|min|hour)s?\b/i

const unit: Readonly<Record<string, number>> = {
  millisecond: 1,
  second: 1000,
  sec: 1000,
  minute: 60_000,
  min: 60_000,
  hour: 3_600_000
}

// How Django's REST framework, and Replicate with it, says it.
const availability =
  /\bexpected available in (\d+(?:\.\d+)?) ?(second)s?\b|\brate limit resets in ~?(\d+(?:\.\d+)?s)\b/i

const hintOf = (message: string): number | undefined => {
  const available = availability.exec(message)
  const short = hint.exec(message)?.[1] ?? available?.[3]
  if (short !== undefined) return delayOf(short.toLowerCase())
  const long = hintInWords.exec(message) ?? available
  if (long === null) return undefined
  return Math.ceil(Math.round(Number(long[1]) * (unit[(long[2] ?? "").toLowerCase()] ?? 0) * 1e6) / 1e6)
}

/** The headers of a response, by lower-case name. */
export type ResponseHeaders = Readonly<Record<string, string | undefined>>

const retryAfterOf = (headers: ResponseHeaders, now: number): number | undefined => {
  const millis = Number(headers["retry-after-ms"]?.trim() || Number.NaN)
  if (Number.isFinite(millis) && millis > 0) return Math.ceil(millis)
  const after = headers["retry-after"]?.trim()
  if (after === undefined || after === "") return undefined
  if (/^\d{1,12}(\.\d+)?$/.test(after)) return Math.ceil(Number(after) * 1000)
  // `Date.parse` takes almost anything for a date, and those of C's `asctime` for local time.
  if (!/\d\d:\d\d:\d\d/.test(after)) return delayOf(after)
  const date = Date.parse(/(?:GMT|UTC|Z|[+-]\d\d:?\d\d)$/i.test(after) ? after : `${after} GMT`)
  return Number.isNaN(date) ? undefined : Math.max(0, date - now)
}

/** As much of a message as is searched for known wordings: its beginning and its end. */
const searched = (message: string | undefined): string =>
  message === undefined ? "" : message.length <= 16_384 ? message : `${message.slice(0, 8192)}\n${message.slice(-8192)}`

const contextWordings =
  /prompt is too long|prompt too long; exceeded max context length|input tokens exceed the configured limit|exceeds? the context window|input token count.{0,200}exceeds the maximum|input token count is \d+ but model only supports|exceed context limit: \d|maximum (?:context|prompt) length is|too large for model with \d+ maximum context length|tokens`? \+ `?max_new_tokens`? must be|exceed(?:s|ed)? (?:the |this model's )?(?:max(?:imum)?|available) context (?:length|size|window)|context length exceeded|input length exceeds (?:the )?(?:maximum )?context length|maximum input length is \d|must have less than \d+ tokens|longer than the (?:model's )?(?:maximum )?context length/is

const quotaCode =
  /insufficient_quota|credit_balance|insufficient_(?:credit|balance|funds)|billing|payment_required|spend_limit|quota_exceeded|quota_exhausted|exceeded_current_quota/i
const quotaWording = /quota exceeded|exceeded your current quota/i
const creditWording =
  /credit balance is too low|prepayment credits are depleted|monthly spending cap|reached your specified api usage limits/i
const byTime = /per[ _-]?(?:second|minute)|try again in|retry in/i

const filtered = /content_filter|content_policy_violation|responsibleaipolicyviolation/i

const reasonOf = (envelope: Envelope, status: number, inside: boolean): Reason => {
  const { codes, quotaIds } = envelope
  const message = searched(envelope.message)
  const has = (...names: ReadonlyArray<string>) => codes.some((code) => names.includes(code.toLowerCase()))
  const quota =
    status === 402 ||
    codes.some((code) => quotaCode.test(code)) ||
    creditWording.test(message) ||
    (quotaIds.length > 0
      ? quotaIds.some((id) => /PerDay/i.test(id))
      : quotaWording.test(message) && !byTime.test(message))
  if (quota) return "QuotaExhausted"
  if (has("context_length_exceeded", "exceed_context_size_error") || contextWordings.test(message))
    return "ContextLengthExceeded"
  if (codes.some((code) => filtered.test(code))) return "ContentFiltered"
  if (status === 401 || has("invalid_api_key", "authentication_error", "api_key_invalid", "unauthenticated")) {
    return "Authentication"
  }
  if (status === 403 || has("permission_error", "permission_denied")) return "PermissionDenied"
  if (status === 404 || has("model_not_found", "not_found_error", "deploymentnotfound", "not_found")) return "NotFound"
  if (status === 429 || has("rate_limit_exceeded", "rate_limit_error", "ratelimitreached", "resource_exhausted")) {
    return "RateLimited"
  }
  if (status === 498 || status === 503 || status === 529 || has("overloaded_error", "unavailable")) return "Overloaded"
  if (status >= 500 || has("api_error", "server_error")) return "ServerError"
  if (status >= 400 || has("invalid_request_error", "tool_use_failed", "invalid_argument")) return "InvalidRequest"
  return inside ? "ServerError" : "Unknown"
}

const number = (text: string | undefined): number | undefined =>
  text === undefined ? undefined : Number(text.replace(/[,_]/g, ""))

/** The window and the length of the request, from the wordings that say them. */
const lengths = (message: string): { readonly limit?: number | undefined; readonly actual?: number | undefined } => {
  const n = "(\\d[\\d,_]*)"
  const match = (pattern: string) => new RegExp(pattern, "is").exec(message)
  const anthropic = match(`too long: ${n} tokens > ${n}`)
  if (anthropic !== null) return { actual: number(anthropic[1]), limit: number(anthropic[2]) }
  // Here the answer counts too, with all the tokens that it may have.
  const together = match(`exceed context limit: ${n} \\+ ${n} > ${n}`)
  if (together !== null) {
    return { actual: (number(together[1]) ?? 0) + (number(together[2]) ?? 0), limit: number(together[3]) }
  }
  const gemini = match(
    `input token count (?:(?:is )?\\(?${n}\\)? )?(?:exceeds the maximum[^\\d]*|but model only supports up to )(?:${n})?`
  )
  if (gemini !== null) return { actual: number(gemini[1]), limit: number(gemini[2]) }
  const limit = match(`(?:limit of|(?:context|prompt) length is|context size \\(?|model with|maximum of) ?${n}`)
  const actual = match(`(?:resulted in|requested|request(?:ed)? has|contains) (?:about )?${n} (?:input )?tokens`)
  return { limit: number(limit?.[1]), actual: number(actual?.[1]) }
}

/** Where an error was found. */
export interface Place {
  readonly context: CallContext
  /** The HTTP status of the response. */
  readonly status: number
  /** The error came inside a streamed answer. */
  readonly midStream: boolean
  /** Text, reasoning or a call had already arrived. */
  readonly hadContent: boolean
  readonly headers?: ResponseHeaders | undefined
  /** The time, for dates in headers, in milliseconds. */
  readonly now?: number | undefined
  readonly partial?: PartialResponse | undefined
  readonly usage?: Usage | undefined
}

const retryableReasons: ReadonlySet<Reason> = new Set<Reason>([
  "RateLimited",
  "Overloaded",
  "ServerError",
  "StreamTruncated"
])

/** The error that a provider's envelope means. */
export const errorOf = (envelope: Envelope, place: Place): LlmError => {
  const failed = place.status >= 400
  const status = failed ? place.status : (envelope.status ?? 0)
  const reason = reasonOf(envelope, status, place.midStream)
  const headers = failed ? (place.headers ?? {}) : {}
  const message = searched(envelope.message)
  const after =
    retryAfterOf(headers, place.now ?? 0) ??
    (envelope.retryDelay === undefined ? undefined : delayOf(envelope.retryDelay)) ??
    hintOf(message)
  const should = headers["x-should-retry"]?.trim().toLowerCase()
  const retryable =
    place.midStream && place.hadContent
      ? false
      : should === "true"
        ? true
        : should === "false"
          ? false
          : status === 408 || status === 409 || (retryableReasons.has(reason) && status !== 413)
  return new LlmError({
    ...place.context,
    reason,
    status: place.status,
    code: envelope.codes.find((code) => token.test(code)),
    providerMessage: envelope.message,
    retryable,
    retryAfter: after === undefined ? undefined : Duration.millis(after),
    midStream: place.midStream,
    ...(reason === "ContextLengthExceeded" ? lengths(message) : {}),
    ...(reason === "ContentFiltered" && envelope.filters !== undefined && envelope.filters.length > 0
      ? { issue: `filtered for ${envelope.filters.join(", ")}` }
      : {}),
    partial: place.partial,
    usage: place.usage
  })
}

/** An error that the client itself finds in a response. */
export const ownError = (
  reason: "StreamTruncated" | "MalformedResponse",
  place: Place & { readonly issue?: string | undefined }
): LlmError =>
  new LlmError({
    ...place.context,
    reason,
    status: place.status,
    retryable: reason === "StreamTruncated" && !place.hadContent,
    midStream: place.midStream,
    issue: place.issue,
    partial: place.partial,
    usage: place.usage
  })
