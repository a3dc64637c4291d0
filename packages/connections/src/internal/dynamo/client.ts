/**
 * DynamoDB's wire: one signed POST of JSON for each operation, its answer checked against its checksum, its errors by the
 * service's own names.
 */
import * as Zlib from "node:zlib"
import type * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import { ConnectionError, type ConnectionErrorReason } from "@underlay/core/connection/Connection"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Sign from "../aws/sign.ts"
import * as Http from "../http/httpConnection.ts"
import type { AttributeMap } from "./attribute.ts"

/** Why one operation of a cancelled transaction would not do; `None` for those that would. */
export interface CancellationReason {
  readonly code: string
  readonly item: AttributeMap | undefined
}

/** What errors carry beside what they show: items are nobody's to log. */
export interface Details {
  readonly item?: AttributeMap | undefined
  readonly reasons?: ReadonlyArray<CancellationReason> | undefined
}

const details = new WeakMap<ConnectionError, Details>()

export const detailsOf = (error: ConnectionError): Details => details.get(error) ?? {}

export type Output = Readonly<Record<string, unknown>>

export interface Settings {
  readonly name: string
  readonly endpoint: URL
  readonly region: string
  readonly credentials: Effect.Effect<Sign.Credentials, ConnectionError>
  readonly http: HttpClient.HttpClient
}

/** Sends one request once, with headers that are not signed. */
export type Send = (
  operation: string,
  input: Output,
  headers?: Readonly<Record<string, string>>
) => Effect.Effect<Output, ConnectionError>

export const make = (settings: Settings): Send => {
  const { endpoint, http, name, region } = settings
  const at = { kind: "dynamodb", name }
  const address = endpoint.href
  // How far this machine's clock is behind the service's, once that has refused a signature for it. Changed between two
  // suspensions only.
  let behind = 0
  return (operation, input, unsigned) =>
    Effect.flatMap(settings.credentials, (credentials) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const body = JSON.stringify(input)
        const signedBehind = behind
        const headers = Sign.signHeaders({
          method: "POST",
          url: endpoint,
          headers: {
            "content-type": "application/x-amz-json-1.0",
            "x-amz-target": `DynamoDB_20120810.${operation}`
          },
          payloadHash: Sign.sha256Hex(body),
          region,
          service: "dynamodb",
          credentials,
          now: new Date(now + behind)
        })
        const request = HttpClientRequest.post(address, { headers: { ...headers, ...unsigned } }).pipe(
          HttpClientRequest.bodyText(body, "application/x-amz-json-1.0")
        )
        return Effect.matchEffect(
          Effect.flatMap(http.execute(request), (response) =>
            Effect.map(response.arrayBuffer, (bytes) => ({ response, bytes: Buffer.from(bytes) }))
          ),
          {
            onFailure: (error) => Effect.fail(Http.fromTransport(at, operation, error)),
            onSuccess: ({ bytes, response }) => {
              const failed = (reason: ConnectionErrorReason, description: string) =>
                new ConnectionError({ reason, kind: at.kind, connection: name, method: operation, description })
              const sum = response.headers["x-amz-crc32"]
              if (sum !== undefined && Number(sum) !== Zlib.crc32(bytes)) {
                return failed("Unavailable", "the answer was damaged on its way: its checksum is another")
              }
              let parsed: unknown
              try {
                parsed = bytes.length === 0 ? {} : JSON.parse(bytes.toString("utf8"))
              } catch {
                parsed = undefined
              }
              const output = asRecord(parsed)
              if (response.status === 200) {
                return output === undefined
                  ? failed("Unknown", "the answer is no JSON: is this the service that was meant?")
                  : Effect.succeed(output)
              }
              const type = typeOf(response, output)
              const found = type === undefined || !ofClocks.has(type) ? undefined : behindBy(response, now)
              // A clock that is right, or is corrected already, is not what was wrong with the signature.
              if (found === undefined || Math.abs(found - signedBehind) < tolerated) {
                return Effect.fail(refusal(at, operation, response, output, now))
              }
              behind = found
              return Effect.fail(corrected(at, operation, type, found))
            }
          }
        )
      })
    )
}

export const listOf = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [])

export const numberOf = (value: unknown): number => (typeof value === "number" ? value : 0)

export const asRecord = (value: unknown): Output | undefined =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Output) : undefined

const asMap = (value: unknown): AttributeMap | undefined => asRecord(value) as AttributeMap | undefined

/** What a signature is refused with when its time is not the service's. */
const ofClocks: ReadonlySet<string> = new Set([
  "RequestTimeTooSkewed",
  "RequestExpired",
  "RequestInTheFuture",
  "InvalidSignatureException",
  "SignatureDoesNotMatch"
])

/** The service takes signatures of five minutes; `Date` has whole seconds and is later than the request. */
const tolerated = 240_000

/** How far this machine's clock is behind, by the `Date` of the answer. */
const behindBy = (response: Answered, now: number): number | undefined => {
  const date = Date.parse(response.headers["date"] ?? "")
  return Number.isNaN(date) ? undefined : date - now
}

/** Whether it was refused for its time alone, and would not be once more. */
export const isCorrected = ({ code, sent }: ConnectionError): boolean =>
  sent === false && code !== undefined && ofClocks.has(code)

/** Not begun, and not to be refused again for the same reason. */
const corrected = (
  at: { readonly kind: string; readonly name: string },
  operation: string,
  code: string | undefined,
  by: number
): ConnectionError =>
  new ConnectionError({
    reason: "Unavailable",
    kind: at.kind,
    connection: at.name,
    method: operation,
    description: `this machine's clock is ${Math.round(Math.abs(by) / 1_000)} s ${by > 0 ? "behind" : "ahead of"} the service's: from now on requests are signed by the service's, so ask again, and set the clock`,
    ...(code === undefined ? {} : { code }),
    sent: false
  })

interface Answered {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
}

const typeOf = (response: Answered, output: Output | undefined): string | undefined => {
  const said = output?.["__type"] ?? response.headers["x-amzn-errortype"]
  return typeof said === "string" ? (said.split("#").pop() ?? "").split(":")[0] : undefined
}

interface Meaning {
  readonly reason: ConnectionErrorReason
  readonly description: string
  /** It was refused and not begun, so it may be sent again whatever it is. */
  readonly refused?: true
}

const throttled = (description: string): Meaning => ({ reason: "Throttled", description, refused: true })
const authentication = (description: string): Meaning => ({ reason: "Authentication", description })
const invalid = (description: string): Meaning => ({ reason: "InvalidRequest", description })

const meanings: Readonly<Record<string, Meaning>> = {
  ConditionalCheckFailedException: {
    reason: "Conflict",
    description: "the condition does not hold: the item is another than was expected"
  },
  TransactionConflictException: {
    reason: "Conflict",
    description: "a transaction has the item: try again when it has ended"
  },
  TransactionCanceledException: {
    reason: "Conflict",
    description: "the transaction was cancelled, and nothing was done"
  },
  // somebody has sent it, so it was begun
  TransactionInProgressException: {
    reason: "Throttled",
    description: "the same transaction is still under way; what was asked may have been done"
  },
  IdempotentParameterMismatchException: invalid("another transaction was sent with this token"),
  ProvisionedThroughputExceededException: throttled("the table's throughput is used up for now"),
  ThrottlingException: throttled("there are too many requests"),
  RequestLimitExceeded: throttled("the account's throughput is used up for now"),
  LimitExceededException: throttled("too many tables are being changed at once"),
  ResourceNotFoundException: {
    reason: "NotFound",
    description: "there is no such table or index: create it, and wait until it is active"
  },
  TableNotFoundException: { reason: "NotFound", description: "there is no such table" },
  ResourceInUseException: { reason: "Conflict", description: "the table is there already, or is being changed" },
  TableAlreadyExistsException: { reason: "Conflict", description: "the table is there already" },
  ItemCollectionSizeLimitExceededException: invalid("the items of one partition are more than 10 GB"),
  ValidationException: invalid("the service refused the request: `original` of the error has its words"),
  SerializationException: invalid("the service could not read the request: `original` of the error has its words"),
  DuplicateItemException: { reason: "Conflict", description: "there is an item with this key already" },
  AccessDeniedException: { reason: "PermissionDenied", description: "the credentials do not permit this" },
  UnrecognizedClientException: authentication("the credentials are not known: see that they are right and not expired"),
  InvalidClientTokenId: authentication("the credentials are not known: see that they are right"),
  InvalidSignatureException: authentication("the signature was refused: see the secret key, the region and the clock"),
  SignatureDoesNotMatch: authentication("the signature was refused: see the secret key, the region and the clock"),
  RequestTimeTooSkewed: authentication("the signature was refused: this machine's clock is not the service's"),
  RequestExpired: authentication("the signature was refused: this machine's clock is not the service's"),
  RequestInTheFuture: authentication("the signature was refused: this machine's clock is not the service's"),
  IncompleteSignatureException: authentication("the signature is not whole: see the credentials"),
  MissingAuthenticationTokenException: authentication("the request was not signed: give credentials"),
  ExpiredTokenException: authentication("the session token has expired"),
  UnknownOperationException: { reason: "Unsupported", description: "the server does not know this operation" },
  InternalServerError: { reason: "Unavailable", description: "the service failed; what was asked may have been done" },
  InternalFailure: { reason: "Unavailable", description: "the service failed; what was asked may have been done" },
  ServiceUnavailable: { reason: "Unavailable", description: "the service cannot serve at present" }
}

/** What is in the way of a transaction, worst first: what the caller must change, what he must look at, what passes. */
const cancelled = (reasons: ReadonlyArray<CancellationReason>): Meaning => {
  const codes = new Set(reasons.map(({ code }) => code))
  if (codes.has("ValidationError") || codes.has("ItemCollectionSizeLimitExceeded")) {
    return invalid("the transaction was cancelled: one of its operations cannot be")
  }
  if (codes.has("ConditionalCheckFailed") || codes.has("DuplicateItem")) {
    return { reason: "Conflict", description: "the transaction was cancelled: a condition does not hold" }
  }
  if (codes.has("TransactionConflict")) {
    return { reason: "Conflict", description: "the transaction was cancelled: another one has one of its items" }
  }
  if (codes.has("ThrottlingError") || codes.has("ProvisionedThroughputExceeded")) {
    return throttled("the transaction was cancelled: there are too many requests")
  }
  return { reason: "Conflict", description: "the transaction was cancelled, and nothing was done" }
}

const reasonsOf = (output: Output | undefined): ReadonlyArray<CancellationReason> => {
  const all = output?.["CancellationReasons"]
  if (!Array.isArray(all)) return []
  return all.map((one: unknown) => {
    const reason = asRecord(one)
    return { code: typeof reason?.["Code"] === "string" ? reason["Code"] : "None", item: asMap(reason?.["Item"]) }
  })
}

const refusal = (
  at: { readonly kind: string; readonly name: string },
  operation: string,
  response: Answered,
  output: Output | undefined,
  now: number
): ConnectionError => {
  const type = typeOf(response, output)
  const reasons = type === "TransactionCanceledException" ? reasonsOf(output) : undefined
  const meaning =
    reasons === undefined || reasons.length === 0
      ? type === undefined
        ? undefined
        : meanings[type]
      : cancelled(reasons)
  const general = Http.fromStatus(at, operation, response, output, now, undefined)
  const reason = meaning?.reason ?? general.reason
  // about a signature they repeat all that was signed, with the session's token
  const words = reason === "Authentication" ? undefined : (output?.["message"] ?? output?.["Message"])
  const error = new ConnectionError({
    reason,
    kind: at.kind,
    connection: at.name,
    method: operation,
    description: meaning?.description ?? general.description,
    code: type ?? String(response.status),
    ...(general.retryAfter === undefined ? {} : { retryAfter: general.retryAfter }),
    ...(meaning?.refused === true ? { sent: false } : {}),
    ...(typeof words === "string" && words !== "" ? { cause: new Error(words) } : {})
  })
  details.set(error, { item: asMap(output?.["Item"]), reasons })
  return error
}
