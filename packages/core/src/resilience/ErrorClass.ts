/**
 * What an error means for the one who made the call: whether another attempt may help, when, and whether the call can
 * have had an effect. Retries, circuit breakers and logs all ask here.
 *
 * @since 0.1.0
 */
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import * as marks from "../internal/resilience/marks.ts"
import * as retryAfter from "../internal/resilience/retryAfter.ts"

/**
 * - `transient`: another attempt may succeed (a timeout, a lost connection, a 503);
 * - `rate-limited`: the service is well and asks for patience;
 * - `permanent`: the same call fails again;
 * - `cancelled`: the caller gave up; says nothing of the service.
 *
 * @since 0.1.0
 * @category models
 */
export type ErrorClass = "transient" | "rate-limited" | "permanent" | "cancelled"

/**
 * What is known of an error.
 *
 * @since 0.1.0
 * @category models
 */
export interface Classification {
  readonly class: ErrorClass
  /** How long the service asks us to wait before another attempt. */
  readonly retryAfter?: Duration.Duration | undefined
  /** The same as a moment (milliseconds since 1970, by the service's clock), where it named no duration. */
  readonly retryAt?: number | undefined
  /** False where it is certain that nothing reached the service, so that even a call with side effects can be repeated. */
  readonly sent?: boolean | undefined
  /** True for a refusal of our own (an open circuit, a full bulkhead): the service was not asked. */
  readonly rejection?: boolean | undefined
  /** True where nothing was known of the error and `class` is only the default. */
  readonly assumed?: boolean | undefined
}

/**
 * A function that classifies errors.
 *
 * @since 0.1.0
 * @category models
 */
export type Classify = (error: unknown) => Classification

const permanent: Classification = { class: "permanent" }
const transient: Classification = { class: "transient" }
const cancelled: Classification = { class: "cancelled" }
const assumed: Classification = { class: "permanent", assumed: true }
const transientUnsent: Classification = { class: "transient", sent: false }
const permanentUnsent: Classification = { class: "permanent", sent: false }

// Names that Node and undici give to failures before a connection stood, so that no byte of a request was sent.
const unsentCodes: ReadonlySet<unknown> = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "EADDRNOTAVAIL",
  "UND_ERR_CONNECT_TIMEOUT"
])

const stoodBefore: ReadonlySet<unknown> = new Set(["read", "write", "writev"])

const transientCodes: ReadonlySet<unknown> = new Set([
  "ECONNRESET",
  "ECONNABORTED",
  "EPIPE",
  "ETIMEDOUT",
  "ESOCKETTIMEDOUT",
  "EHOSTDOWN",
  "ENETDOWN",
  "ENETRESET",
  "UND_ERR_SOCKET",
  "UND_ERR_HEADERS_TIMEOUT",
  "UND_ERR_BODY_TIMEOUT",
  "UND_ERR_RESPONSE_TIMEOUT"
])

/**
 * What a status of HTTP means: 429 is `rate-limited`; 408, 425 and those from 500 are `transient` except 501 (not
 * implemented) and 505 (version not supported); the rest is `permanent`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromStatus = (
  status: number,
  headers?: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
): Classification => {
  const kind: ErrorClass =
    status === 429
      ? "rate-limited"
      : status === 408 || status === 425 || (status >= 500 && status !== 501 && status !== 505)
        ? "transient"
        : "permanent"
  if (kind === "permanent" || headers === undefined) return { class: kind }
  const hint = retryAfter.fromHeaders(headers)
  return hint === undefined
    ? { class: kind }
    : hint._tag === "Never"
      ? permanent
      : hint._tag === "At"
        ? { class: kind, retryAt: hint.millis }
        : { class: kind, retryAfter: Duration.millis(hint.millis) }
}

const isErrorClass = (u: unknown): u is ErrorClass =>
  u === "transient" || u === "rate-limited" || u === "permanent" || u === "cancelled"

const maxDepth = 8

const transport = (cause: unknown, depth: number): Classification => {
  const inner = fromUnknown(cause, depth + 1)
  return inner.assumed === true ? transient : inner
}

const fromHttp = (error: HttpClientError.HttpClientError, depth: number): Classification => {
  if (error._tag === "RequestError") {
    return error.reason === "Transport" ? transport(error.cause, depth) : permanentUnsent
  }
  if (error.reason === "StatusCode") {
    return fromStatus(error.response.status, error.response.headers)
  }
  // A body that broke off or could not be read is the network's doing; one that was read and is not what it should be
  // comes again.
  return error.reason === "Decode" && !(error.cause instanceof SyntaxError) ? transport(error.cause, depth) : permanent
}

const hinted = (kind: ErrorClass, error: object): Classification => {
  const hint = (error as { readonly retryAfter?: unknown }).retryAfter
  const sent = (error as { readonly sent?: unknown }).sent
  const wait = Duration.isDuration(hint) ? hint : undefined
  return wait === undefined && typeof sent !== "boolean"
    ? { class: kind }
    : { class: kind, retryAfter: wait, ...(typeof sent === "boolean" ? { sent } : {}) }
}

const headersOf = (error: object): Readonly<Record<string, string | undefined>> | undefined => {
  const response = (error as { readonly response?: unknown }).response
  const headers =
    (error as { readonly headers?: unknown }).headers ??
    (Predicate.isObject(response) ? (response as { readonly headers?: unknown }).headers : undefined)
  if (!Predicate.isObject(headers)) return undefined
  if (Predicate.hasProperty(headers, "get") && typeof headers.get === "function") {
    const found: Record<string, string> = {}
    for (const name of retryAfter.read) found[name] = headers.get(name)
    return found
  }
  return headers as unknown as Readonly<Record<string, string | undefined>>
}

const fromUnknown = (error: unknown, depth: number): Classification => {
  if (typeof error !== "object" || error === null || depth > maxDepth) return assumed
  const fields = error as {
    readonly _tag?: unknown
    readonly rejection?: unknown
    readonly errorClass?: unknown
    readonly isRetryable?: unknown
    readonly name?: unknown
    readonly code?: unknown
    readonly syscall?: unknown
    readonly status?: unknown
    readonly statusCode?: unknown
    readonly cause?: unknown
    readonly error?: unknown
    readonly errors?: unknown
  }
  if (isErrorClass(fields.errorClass)) {
    const found = hinted(fields.errorClass, error)
    return fields.rejection === true ? { ...found, rejection: true, sent: false } : found
  }
  if (HttpClientError.isHttpClientError(error)) return fromHttp(error, depth)
  if (typeof fields.isRetryable === "boolean") return hinted(fields.isRetryable ? "transient" : "permanent", error)
  if (fields._tag === "TimeoutException") return transient
  // A host can also go out of reach behind a connection that stands; what was asked on it may have been done.
  if (unsentCodes.has(fields.code)) return stoodBefore.has(fields.syscall) ? transient : transientUnsent
  if (transientCodes.has(fields.code)) return transient
  if (fields.name === "AbortError") return cancelled
  if (fields.name === "TimeoutError") return transient
  const status = typeof fields.status === "number" ? fields.status : fields.statusCode
  if (typeof status === "number" && status >= 400 && status <= 599) return fromStatus(status, headersOf(error))
  if (fields._tag === "UnknownException") return fromUnknown(fields.error, depth + 1)
  // Happy eyeballs: each address was tried and each attempt failed in its own way.
  if (Array.isArray(fields.errors)) {
    const all = fields.errors.map((each) => fromUnknown(each, depth + 1))
    const first = all.find((each) => each.assumed !== true)
    if (first !== undefined) return all.every((each) => each.sent === false) ? first : { class: first.class }
  }
  return fromUnknown(fields.cause, depth + 1)
}

/**
 * The default. It reads, first found first: `errorClass` of the error itself, with `retryAfter` (a `Duration`) and `sent`;
 * the errors of `@effect/platform`'s `HttpClient` (status and headers); `isRetryable`; timeouts and aborts; the codes of
 * Node's network errors; a numeric `status` or `statusCode`; then the same of its `cause`. What it does not know is
 * `permanent`, with `assumed` set.
 *
 * @since 0.1.0
 * @category constructors
 */
export const classify: Classify = (error) => fromUnknown(error, 0)

/**
 * Whether another attempt may help: the error is transient or rate-limited, and no inner policy has spent its attempts on
 * it.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isRetryable = (error: unknown): boolean => {
  const found = classify(error)
  return (found.class === "transient" || found.class === "rate-limited") && !isExhausted(error)
}

/**
 * Marks the error as one that retries were already spent on, so that outer retries let it pass: 3 x 3 x 3 makes 3 attempts.
 * The error is otherwise unchanged. Anything but an object is returned as it is.
 *
 * @since 0.1.0
 * @category combinators
 */
export const markExhausted = <E>(error: E): E => {
  marks.exhaust(error)
  return error
}

/**
 * Whether retries were already spent on the error or on what caused it.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isExhausted = (error: unknown): boolean => marks.isExhausted(error)
