/**
 * What MongoDB's codes and labels and the driver's errors mean as reasons of a `ConnectionError`. What the server says in
 * words may hold values of documents, so it is never repeated.
 */
import { ConnectionError, type ConnectionErrorReason } from "@underlay/core/connection/Connection"

export interface At {
  readonly kind: string
  readonly name: string
  readonly method: string
}

const field = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null && name in value ? Reflect.get(value, name) : undefined

const textOf = (value: unknown): string | undefined => (typeof value === "string" && value !== "" ? value : undefined)

/** The server's number for what went wrong, if it was the server. */
export const codeOf = (thrown: unknown): number | undefined => {
  const code = field(thrown, "code")
  return typeof code === "number" ? code : undefined
}

export const hasLabel = (thrown: unknown, label: string): boolean => {
  if (typeof thrown !== "object" || thrown === null) return false
  const labels = field(thrown, "errorLabels")
  return Array.isArray(labels) && labels.includes(label)
}

const codes: ReadonlyMap<number, readonly [ConnectionErrorReason, string]> = new Map([
  [2, ["InvalidRequest", "a value is wrong"]],
  [6, ["Unavailable", "a host cannot be reached"]],
  [7, ["Unavailable", "a host is not known"]],
  [9, ["InvalidRequest", "the filter, the update or the pipeline is wrong"]],
  [11, ["PermissionDenied", "the user is not known"]],
  [13, ["PermissionDenied", "the user may not do this, or has not said who it is"]],
  [14, ["InvalidRequest", "a value is of a wrong type"]],
  [16, ["InvalidRequest", "the document is too large"]],
  [18, ["Authentication", "the server refused the user or the password"]],
  [20, ["Unsupported", "this server or this topology does not support it"]],
  [24, ["Conflict", "a lock is held by somebody else"]],
  [26, ["NotFound", "there is no such collection"]],
  [27, ["NotFound", "there is no such index"]],
  [40, ["InvalidRequest", "two parts of the update change the same field"]],
  [43, ["NotFound", "the cursor is gone: it was idle for too long, or the server was started again"]],
  [48, ["ConstraintViolation", "there is a collection of this name already"]],
  [50, ["Timeout", "it ran into its time limit on the server"]],
  [52, ["InvalidRequest", "a field has a name that it may not have"]],
  [59, ["Unsupported", "the server does not know this command"]],
  [61, ["InvalidRequest", "the shard key is missing"]],
  [64, ["Timeout", "the write concern was not met in time: it is done on the primary, and may be undone"]],
  [66, ["InvalidRequest", "the field cannot be changed"]],
  [72, ["InvalidRequest", "an option is wrong"]],
  [73, ["InvalidRequest", "the name is wrong"]],
  [79, ["InvalidRequest", "the write concern is not known"]],
  [85, ["InvalidRequest", "an index of the same keys has other options"]],
  [86, ["InvalidRequest", "an index of the same name has another definition"]],
  [89, ["Unavailable", "the network was too slow for the server"]],
  [91, ["Unavailable", "the server is shutting down"]],
  [100, ["InvalidRequest", "the write concern cannot be met by this set"]],
  [112, ["Conflict", "it conflicts with another write: run it again"]],
  [121, ["ConstraintViolation", "the document does not fit the collection's validation"]],
  [133, ["Unavailable", "no server fits the read preference"]],
  [134, ["Unavailable", "the majority has not got it yet"]],
  [189, ["Unavailable", "the primary stepped down"]],
  [211, ["Unavailable", "a key of the cluster is not there yet"]],
  [225, ["Conflict", "the transaction is too old: run it again"]],
  [234, ["Unavailable", "the change stream has to be resumed"]],
  [238, ["Unsupported", "this server does not implement it"]],
  [246, ["Unavailable", "the snapshot is not available: run it again"]],
  [251, ["Conflict", "the transaction is over on the server: run it again"]],
  [256, ["InvalidRequest", "the transaction is committed already"]],
  [262, ["Timeout", "it took longer than the server allows"]],
  [263, ["Unsupported", "this cannot be done in a transaction"]],
  [286, ["NotFound", "the server no longer has the changes from there on"]],
  [290, ["InvalidRequest", "the transaction is too large"]],
  [292, ["InvalidRequest", "it needs more memory than the server gives: allow it the disk, or an index"]],
  [303, ["Unsupported", "the server does not support this feature"]],
  [391, ["Authentication", "the server wants the user to say again who it is"]],
  [462, ["Throttled", "the server is overloaded"]],
  [8000, ["Authentication", "the server refused the user or the password"]],
  [9001, ["Unavailable", "the server's socket failed"]],
  [10058, ["Unavailable", "the server is not the primary"]],
  [10107, ["Unavailable", "the server is not the primary"]],
  [10334, ["InvalidRequest", "the document is too large"]],
  [11000, ["ConstraintViolation", "a unique index has this key already"]],
  [11001, ["ConstraintViolation", "a unique index has this key already"]],
  [11600, ["Unavailable", "the server is shutting down"]],
  [11601, ["Cancelled", "it was killed on the server"]],
  [11602, ["Unavailable", "the replica set changed its primary"]],
  [12582, ["ConstraintViolation", "a unique index has this key already"]],
  [13388, ["Unavailable", "the shards moved: run it again"]],
  [13435, ["Unavailable", "the server is not the primary"]],
  [13436, ["Unavailable", "the server is recovering"]],
  [17419, ["InvalidRequest", "the document would be too large"]],
  [40324, ["InvalidRequest", "the pipeline has a stage that the server does not know"]],
  [40573, ["Unsupported", "change streams need a replica set"]]
])

const names: ReadonlyMap<string, readonly [ConnectionErrorReason, string]> = new Map([
  ["MongoNetworkTimeoutError", ["Timeout", "the server did not answer"]],
  ["MongoNetworkError", ["Unavailable", "the connection to the server failed"]],
  ["MongoServerSelectionError", ["Unavailable", "no server that fits could be reached"]],
  ["MongoPoolClearedError", ["Unavailable", "the server was lost, and its connections with it"]],
  ["MongoPoolClosedError", ["Closed", "it is released already"]],
  ["MongoServerClosedError", ["Closed", "it is released already"]],
  ["MongoTopologyClosedError", ["Closed", "it is released already"]],
  ["MongoNotConnectedError", ["Closed", "it is released already"]],
  ["MongoClientClosedError", ["Closed", "it is released already"]],
  ["MongoExpiredSessionError", ["Closed", "the session has ended"]],
  ["MongoWaitQueueTimeoutError", ["Throttled", "all connections are in use: none became free in time"]],
  ["MongoOperationTimeoutError", ["Timeout", "it took longer than the driver allows"]],
  [
    "MongoInvalidArgumentError",
    ["InvalidRequest", "the driver does not take an argument: check those of the call, `original` says which"]
  ],
  ["MongoAPIError", ["InvalidRequest", "the driver does not take the call in this state or form: `original` says why"]],
  [
    "MongoTransactionError",
    ["InvalidRequest", "the driver does not take the call in this transaction: `original` says why"]
  ],
  ["MongoCompatibilityError", ["Unsupported", "this server does not support it"]],
  [
    "MongoMissingDependencyError",
    ["MissingDriver", "the driver needs another package: install the one that `original` names"]
  ],
  ["MongoMissingCredentialsError", ["InvalidSettings", "user and password are missing"]],
  ["MongoParseError", ["InvalidSettings", "the driver does not understand the URL or the settings"]],
  ["MongoCursorExhaustedError", ["Closed", "the cursor is closed"]],
  ["MongoChangeStreamError", ["InvalidRequest", "the pipeline removed the resume token (_id) from the changes"]],
  ["BSONError", ["InvalidRequest", "a value cannot be stored as BSON"]],
  ["BSONVersionError", ["InvalidRequest", "a value was made by another major version of the package bson"]],
  ["BSONRuntimeError", ["InvalidRequest", "a value cannot be stored as BSON"]]
])

/** The driver lets some of Node's own errors through. */
const node: ReadonlyMap<string, readonly [ConnectionErrorReason, string]> = new Map([
  ["ECONNRESET", ["Unavailable", "the server closed the connection"]],
  ["EPIPE", ["Unavailable", "the server closed the connection"]],
  ["ECONNREFUSED", ["Unavailable", "nothing listens at this address: is the server running?"]],
  ["ETIMEDOUT", ["Timeout", "the server did not answer"]],
  ["EHOSTUNREACH", ["Unavailable", "there is no way to the host"]],
  ["ENETUNREACH", ["Unavailable", "there is no way to the network"]],
  ["ENOTFOUND", ["Unavailable", "the name of the host does not resolve"]],
  ["EAI_AGAIN", ["Unavailable", "the name of the host does not resolve at present"]]
])

/** Errors after which it is not known whether a write was done. */
export const isLost = (thrown: unknown): boolean => {
  const name = textOf(field(thrown, "name"))
  const code = textOf(field(thrown, "code"))
  return (
    (code !== undefined && node.has(code)) ||
    name === "MongoNetworkError" ||
    name === "MongoNetworkTimeoutError" ||
    name === "MongoPoolClearedError"
  )
}

/** The index that forbids it, by name and fields; never by values. */
const indexOf = (thrown: unknown): string => {
  const response = field(thrown, "errorResponse") ?? thrown
  const pattern = field(thrown, "keyPattern") ?? field(response, "keyPattern")
  if (typeof pattern === "object" && pattern !== null) return ` (${Object.keys(pattern).join(", ")})`
  const index = /index: (\S+)/.exec(textOf(field(thrown, "message")) ?? textOf(field(thrown, "errmsg")) ?? "")?.[1]
  return index === undefined ? "" : ` (${index})`
}

/** The reason and the words for one code of the server, for errors of single writes too. */
export const describe = (
  code: number | undefined,
  thrown: unknown
): { readonly reason: ConnectionErrorReason; readonly description: string } => {
  const known = code === undefined ? undefined : codes.get(code)
  if (known === undefined)
    return { reason: "Unknown", description: "the server refused it: look up the code in the manual of MongoDB" }
  const [reason, description] = known
  return { reason, description: code === 11000 || code === 11001 ? `${description}${indexOf(thrown)}` : description }
}

/**
 * The typed error of what the driver threw, which is kept as the cause. Where the driver sends a write once more by
 * itself, it throws what happened to the repetition: the write may have been done before no server was found for that.
 */
export const toConnectionError = (at: At, thrown: unknown, resends = false): ConnectionError => {
  if (thrown instanceof ConnectionError) return thrown
  const name = textOf(field(thrown, "name")) ?? ""
  const code = codeOf(thrown)
  const make = (reason: ConnectionErrorReason, description: string, sent?: false) =>
    new ConnectionError({
      reason,
      kind: at.kind,
      connection: at.name,
      method: at.method,
      description,
      ...(code === undefined ? {} : { code: String(code) }),
      ...(sent === undefined ? {} : { sent }),
      cause: thrown
    })
  // The driver wraps what ended the attempt to reach a server.
  const inner = name === "MongoServerSelectionError" || name === "MongoNetworkError" ? deepest(thrown) : thrown
  const innerCode = codeOf(inner)
  if (inner !== thrown && (innerCode === 18 || innerCode === 8000 || innerCode === 13)) {
    return make("Authentication", "the server refused the user or the password")
  }
  if (code !== undefined) {
    const known = describe(code, thrown)
    if (known.reason !== "Unknown") return make(known.reason, known.description)
  }
  // The driver labels every connection that does not come about like that, one that is refused too.
  if (hasLabel(thrown, "SystemOverloadedError") && !isLost(thrown)) {
    return make("Throttled", "the server is overloaded")
  }
  const driver = names.get(name)
  if (driver !== undefined) {
    const [reason, description] = driver
    const tls = textOf(field(inner, "code"))
    if (tls !== undefined && /CERT|TLS|SSL/.test(tls)) {
      return make("InvalidSettings", "the server's certificate is not trusted")
    }
    const unsent = !resends && (name === "MongoServerSelectionError" || name === "MongoWaitQueueTimeoutError")
    return make(reason, description, unsent ? false : undefined)
  }
  const ofNode = node.get(textOf(field(thrown, "code")) ?? "")
  if (ofNode !== undefined) return make(...ofNode)
  if (hasLabel(thrown, "TransientTransactionError")) return make("Conflict", "the transaction failed: run it again")
  if (hasLabel(thrown, "RetryableWriteError")) return make("Unavailable", "the server could not do it at present")
  if (name === "MongoBulkWriteError" && code === undefined) {
    return make("Unavailable", "the connection to the server failed during a write of many documents")
  }
  return make("Unknown", "the driver failed in a way that is not known here: `original` says why")
}

const deepest = (thrown: unknown): unknown => {
  let at: unknown = thrown
  for (let depth = 0; depth < 5; depth++) {
    const next = field(at, "cause") ?? field(field(firstOf(field(field(at, "reason"), "servers")), "error"), "cause")
    const direct = field(firstOf(field(field(at, "reason"), "servers")), "error")
    if (next === undefined || next === null) return direct ?? at
    at = next
  }
  return at
}

const firstOf = (servers: unknown): unknown =>
  servers instanceof Map ? [...servers.values()].find((server) => field(server, "error") != null) : undefined
