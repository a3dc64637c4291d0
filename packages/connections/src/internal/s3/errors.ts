/** What S3 says, as errors of connections and of the port. */
import { ConnectionError, type ConnectionErrorReason } from "@underlay/core/connection/Connection"
import * as ObjectStore from "@underlay/core/storage/ObjectStore"
import type { ServiceError } from "../http/httpConnection.ts"

interface Meaning {
  readonly reason: ConnectionErrorReason
  readonly description: string
}

const meaning = (reason: ConnectionErrorReason, description: string): Meaning => ({ reason, description })

const refusedKeys = meaning("Authentication", "the credentials were refused: see that they are right and not expired")
const patience = meaning("Throttled", "the endpoint asks for patience: send less at once")
const broken = meaning("Unavailable", "the endpoint failed: the same may succeed later")
const damaged = meaning("InvalidRequest", "what arrived is not what was sent: send it again")
const region = meaning("InvalidRequest", "the bucket is in another region: set region to it")

const meanings: Readonly<Record<string, Meaning>> = {
  NoSuchKey: meaning("NotFound", "there is no such object"),
  NoSuchBucket: meaning("NotFound", "there is no such bucket: make it, or set createBucket"),
  NoSuchUpload: meaning("NotFound", "there is no such multipart upload: it was completed, or aborted by somebody"),
  AccessDenied: meaning(
    "PermissionDenied",
    "the credentials do not permit this, or the object is not there and they do not permit to list"
  ),
  AllAccessDisabled: meaning("PermissionDenied", "access to the bucket is disabled"),
  InvalidAccessKeyId: refusedKeys,
  SignatureDoesNotMatch: refusedKeys,
  ExpiredToken: refusedKeys,
  InvalidToken: refusedKeys,
  TokenRefreshRequired: refusedKeys,
  InvalidSecurity: refusedKeys,
  RequestTimeTooSkewed: meaning(
    "Authentication",
    "the clocks of this machine and of the endpoint are too far apart: set them"
  ),
  SlowDown: patience,
  Throttling: patience,
  ThrottlingException: patience,
  RequestLimitExceeded: patience,
  TooManyRequests: patience,
  BandwidthLimitExceeded: patience,
  InternalError: broken,
  ServiceUnavailable: broken,
  ServiceFailure: broken,
  RequestTimeout: meaning("Timeout", "the endpoint waited too long for the rest of the request"),
  PreconditionFailed: meaning("Conflict", "the object is not the one that was asked for, or is there already"),
  ConditionalRequestConflict: meaning("Conflict", "another request changed the object meanwhile"),
  OperationAborted: meaning("Conflict", "another request changes the same at this moment"),
  BadDigest: damaged,
  InvalidDigest: damaged,
  XAmzContentSHA256Mismatch: damaged,
  XAmzContentChecksumMismatch: damaged,
  NotImplemented: meaning("Unsupported", "the endpoint does not know this"),
  MethodNotAllowed: meaning("Unsupported", "the endpoint does not know this"),
  PermanentRedirect: region,
  TemporaryRedirect: region,
  AuthorizationHeaderMalformed: region,
  IllegalLocationConstraintException: region,
  EntityTooLarge: meaning("InvalidRequest", "the object is larger than the endpoint takes"),
  EntityTooSmall: meaning(
    "InvalidRequest",
    "a part is smaller than the endpoint takes: raise partSize to 5 MiB or more"
  ),
  InvalidRange: meaning("InvalidRequest", "the range lies beyond the end of the object"),
  KeyTooLongError: meaning("InvalidRequest", "the key is longer than the endpoint takes"),
  InvalidObjectState: meaning("Conflict", "the object is archived: restore it first")
}

const pick = (text: string, name: string): string | undefined =>
  new RegExp(`<${name}>([^<]{1,200})</${name}>`).exec(text)?.[1]

/** The meaning of an answer that is an error; a HEAD has no body, and its status is all there is. */
export const errorOf = (
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string | undefined>>
): ServiceError => {
  const text = typeof body === "string" ? body : ""
  const code = pick(text, "Code")
  const where = headers["x-amz-bucket-region"] ?? pick(text, "Region")
  if (code === undefined) {
    if (status === 301 || status === 307) return { ...region, description: regional(where), code: String(status) }
    return status === 412 ? { ...meanings["PreconditionFailed"], code: "412" } : {}
  }
  const known = meanings[code]
  if (known === undefined) return { code }
  return known === region ? { ...known, description: regional(where), code } : { ...known, code }
}

const regional = (where: string | undefined): string =>
  where !== undefined && /^[a-z0-9-]{1,30}$/.test(where)
    ? `the bucket is in the region ${where}: set region to it`
    : region.description

/** An error within an answer of status 200, as copies and completions give it. */
export const errorOfBody = (
  at: { readonly kind: string; readonly name: string },
  method: string,
  text: string
): ConnectionError | undefined => {
  // It is the answer itself: that to DeleteObjects has one for each key within.
  if (!/^\s*(?:<\?[^>]*\?>\s*)?<(?:[\w.-]+:)?Error[\s>]/.test(text)) return undefined
  const own = errorOf(200, text, {})
  return new ConnectionError({
    reason: own.reason ?? "Unavailable",
    kind: at.kind,
    connection: at.name,
    method,
    description: own.description ?? "the endpoint began, and then failed",
    ...(own.code === undefined ? {} : { code: own.code })
  })
}

/** That it was the bucket of which a HEAD said that it is not there. */
export const noBucket = (error: ConnectionError): ConnectionError =>
  new ConnectionError({
    reason: "NotFound",
    kind: error.kind,
    connection: error.connection,
    method: error.method,
    description: "there is no such bucket: make it, or set createBucket",
    code: "NoSuchBucket",
    cause: error
  })

const reasonOf = (error: ConnectionError): ObjectStore.ObjectStoreErrorReason => {
  switch (error.code) {
    case "InvalidRange":
    case "416":
      return "InvalidRange"
    case "BadDigest":
    case "InvalidDigest":
    case "XAmzContentSHA256Mismatch":
    case "XAmzContentChecksumMismatch":
      return "ChecksumMismatch"
    case "EntityTooLarge":
      return "TooLarge"
    case "KeyTooLongError":
      return "InvalidKey"
    // Without the bucket nothing is there, and it is no matter of the key.
    case "NoSuchBucket":
    case "NoSuchUpload":
      return "InvalidRequest"
  }
  switch (error.reason) {
    case "NotFound":
    case "Conflict":
    case "InvalidRequest":
    case "Unsupported":
    case "Authentication":
    case "PermissionDenied":
    case "Throttled":
    case "Unavailable":
    case "Timeout":
    case "Cancelled":
    case "Closed":
      return error.reason
    case "ConstraintViolation":
    case "InvalidSettings":
    case "MissingDriver":
      return "InvalidRequest"
    case "Unknown":
      return "Unknown"
  }
}

/** An error of the connection as one of the port. */
export const storeError = (
  method: string,
  key: string | undefined,
  error: ConnectionError
): ObjectStore.ObjectStoreError =>
  new ObjectStore.ObjectStoreError({
    reason: reasonOf(error),
    method,
    description: error.description,
    ...(key === undefined ? {} : { key }),
    ...(error.code === undefined ? {} : { code: error.code }),
    ...(error.retryAfter === undefined ? {} : { retryAfter: error.retryAfter }),
    cause: error
  })
