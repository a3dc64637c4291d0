/**
 * What PostgreSQL's codes and Node's mean as reasons of a `ConnectionError`.
 */
import { ConnectionError, type ConnectionErrorReason } from "@underlay/core/connection/Connection"

const text = (value: unknown): string | undefined => (typeof value === "string" && value !== "" ? value : undefined)

const field = (error: unknown, name: string): string | undefined =>
  typeof error === "object" && error !== null && name in error
    ? text((error as { readonly [key: string]: unknown })[name])
    : undefined

const byCode: ReadonlyMap<string, readonly [ConnectionErrorReason, string]> = new Map([
  ["ECONNREFUSED", ["Unavailable", "nothing listens at this address: is the server running?"]],
  ["ECONNRESET", ["Unavailable", "the server closed the connection"]],
  ["EPIPE", ["Unavailable", "the server closed the connection"]],
  ["ETIMEDOUT", ["Timeout", "the server did not answer"]],
  ["EHOSTUNREACH", ["Unavailable", "there is no way to the host"]],
  ["ENETUNREACH", ["Unavailable", "there is no way to the network"]],
  ["ENOTFOUND", ["Unavailable", "the name of the host does not resolve"]],
  ["EAI_AGAIN", ["Unavailable", "the name of the host does not resolve at present"]],
  ["ENOENT", ["Unavailable", "the socket is not there: is the server running?"]],
  ["EACCES", ["PermissionDenied", "the socket or the folder may not be opened"]],
  ["08P01", ["InvalidRequest", "the server does not understand what was sent"]],
  ["57014", ["Cancelled", "the statement was cancelled"]],
  ["57P01", ["Unavailable", "an administrator ended the connection or stops the server"]],
  ["57P02", ["Unavailable", "the server crashed and recovers"]],
  ["57P03", ["Unavailable", "the server is starting up or shutting down"]],
  ["57P05", ["Unavailable", "the server ended an idle session"]],
  ["25P02", ["InvalidRequest", "an earlier statement of this transaction failed, so this one was not run"]],
  ["25P03", ["Timeout", "the transaction was idle for too long"]],
  ["25006", ["Unavailable", "the server is read-only, as a replica or during a failover"]],
  ["53100", ["Unavailable", "the server's disk is full"]],
  ["53200", ["Unavailable", "the server is out of memory"]],
  ["53300", ["Throttled", "the server has no free connection"]],
  ["40001", ["Conflict", "it conflicts with another transaction: run it again"]],
  ["40P01", ["Conflict", "it was in a deadlock with another transaction: run it again"]],
  ["55P03", ["Conflict", "a lock is held by somebody else"]],
  ["3D000", ["NotFound", "there is no such database"]],
  ["42501", ["PermissionDenied", "the user lacks the privilege"]],
  ["0A000", ["Unsupported", "this server does not support it"]]
])

const byClass: ReadonlyMap<string, readonly [ConnectionErrorReason, string]> = new Map([
  ["08", ["Unavailable", "the connection failed"]],
  ["22", ["InvalidRequest", "a value does not fit"]],
  ["23", ["ConstraintViolation", "a constraint forbids it"]],
  ["28", ["Authentication", "the server refused the user or the password"]],
  ["40", ["Conflict", "the transaction was rolled back"]],
  ["42", ["InvalidRequest", "the statement is wrong"]],
  ["53", ["Throttled", "the server lacks a resource"]],
  ["57", ["Unavailable", "an operator intervened"]]
])

// Messages of these classes speak of names and syntax, those of the others may hold values of rows.
const mayQuote = (code: string): boolean =>
  code.startsWith("42") || code.startsWith("3D") || code.startsWith("0A") || code.startsWith("58")

// Of a syntax error the server quotes what comes next, which may be a value or all the rest: only a word or a sign is
// shown of it.
const shown = (code: string, message: string): string =>
  code === "42601"
    ? message.replace(
        /(["»„«“])([\s\S]*)(["«“»”])/,
        (_, open: string, near: string, close: string) =>
          `${open}${/^(?:[a-z_]\w{0,62}|[^\w\s"'$]{1,3}|)$/i.test(near) ? near : "…"}${close}`
      )
    : message

/** The typed error of what a driver threw. The driver's own error is kept as the cause. */
export const toConnectionError = (
  at: { readonly kind: string; readonly name: string; readonly method: string },
  thrown: unknown
): ConnectionError => {
  if (thrown instanceof ConnectionError) return thrown
  const code = field(thrown, "code")
  const message = field(thrown, "message") ?? "the driver said nothing"
  const known = code === undefined ? undefined : (byCode.get(code) ?? byClass.get(code.slice(0, 2)))
  const make = (reason: ConnectionErrorReason, description: string) =>
    new ConnectionError({
      reason,
      kind: at.kind,
      connection: at.name,
      method: at.method,
      description,
      ...(code === undefined ? {} : { code }),
      cause: thrown
    })
  if (code === undefined) {
    if (/terminated|not queryable|Connection ended/i.test(message)) {
      return make("Unavailable", "the connection ended while it was in use")
    }
    if (/SASL|SCRAM|password/i.test(message)) return make("Authentication", "the server wants another password")
    if (/SSL/i.test(message)) return make("InvalidSettings", "the server and the settings disagree about TLS")
    return make("Unknown", "the driver failed in a way that is not known here: `original` says why")
  }
  if (code === "57014" && /timeout/i.test(message)) return make("Timeout", "the statement ran into its timeout")
  if (known === undefined) {
    return /CERT|TLS|SSL/.test(code)
      ? make("InvalidSettings", "the server's certificate is not trusted")
      : make("Unknown", "the server or the driver failed: look up `code`, `original` says more")
  }
  const [reason, description] = known
  const names = ["constraint", "table", "column"].flatMap((name) => {
    const value = field(thrown, name)
    return value === undefined ? [] : [`${name} ${value}`]
  })
  const detail = mayQuote(code) ? `: ${shown(code, message)}` : names.length > 0 ? ` (${names.join(", ")})` : ""
  return make(reason, `${description}${detail}`)
}
