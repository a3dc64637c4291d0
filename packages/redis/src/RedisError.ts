/**
 * The one error of the Redis client: why a command failed, and whether it can have taken effect.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * Why a command failed.
 *
 * - `Unavailable`: no connection, or it was lost while the command was under way.
 * - `Timeout`: no answer within the command timeout.
 * - `Overloaded`: too many commands are under way already; this one was not sent.
 * - `Closed`: the client is released.
 * - `Authentication`: the server wants (other) credentials, or does not allow the command to this user.
 * - `NotReady`: the server answers but cannot serve now: loading, a read-only replica, without master, busy in a script.
 * - `OutOfMemory`: the server has no memory for a write.
 * - `WrongType`: the key holds another type of value.
 * - `Rejected`: any other refusal of the server.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "Unavailable",
  "Timeout",
  "Overloaded",
  "Closed",
  "Authentication",
  "NotReady",
  "OutOfMemory",
  "WrongType",
  "Rejected"
)

/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * Whether a failed command can have taken effect: it was never sent, the server refused it, or nobody knows.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Outcome = Schema.Literal("not-sent", "rejected", "unknown")

/**
 * @since 0.1.0
 * @category models
 */
export type Outcome = typeof Outcome.Type

/**
 * A failure of the Redis client. `method` is the name of the command. Neither the message nor the cause holds a key, a
 * value or a password.
 *
 * @since 0.1.0
 * @category errors
 */
export class RedisError extends Schema.TaggedError<RedisError>("@underlay/redis/RedisError")("RedisError", {
  reason: Reason,
  outcome: Outcome,
  method: Schema.String,
  description: Schema.String,
  /** The code of the server (`WRONGTYPE`, `OOM`, …) or of the operating system (`ECONNREFUSED`, …). */
  code: Schema.optionalWith(Schema.String, { exact: true }),
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  override get message(): string {
    const code = this.code === undefined ? "" : ` [${this.code}]`
    const unknown = this.outcome === "unknown" ? " (it may have been done)" : ""
    return `Redis ${this.method}: ${this.description}${code}${unknown}`
  }

  /**
   * Whether sending the same command again can help and does no harm. A command whose outcome is unknown is not
   * retryable: only its sender knows whether it may be done twice.
   */
  get isRetryable(): boolean {
    switch (this.reason) {
      case "Unavailable":
      case "Timeout":
      case "Overloaded":
      case "NotReady":
        return this.outcome !== "unknown"
      default:
        return false
    }
  }

  /** @internal */
  static readonly databaseRefused = "Database refused: "

  /**
   * What a driver failed with, as our error. `sent` says whether the command had left this process. Here alone the
   * driver's errors are known.
   */
  static fromUnknown(method: string, problem: unknown, sent: boolean): RedisError {
    const message = problem instanceof Error ? problem.message : String(problem)
    const name = problem instanceof Error ? problem.name : ""
    if (message.startsWith(RedisError.databaseRefused)) {
      return new RedisError({
        reason: "Rejected",
        outcome: "not-sent",
        method,
        description: "the server does not let this user have this database: check its number",
        cause: plain("ReplyError", message.slice(RedisError.databaseRefused.length))
      })
    }
    if (name === "ReplyError") return fromReply(method, message)
    if (message === "Command timed out") {
      return new RedisError({
        reason: "Timeout",
        outcome: sent ? "unknown" : "not-sent",
        method,
        description: "no answer within the command timeout"
      })
    }
    const nested = message.startsWith(readyCheck) ? message.slice(readyCheck.length) : message
    const code = codeOf(problem) ?? replyCode(nested)
    const left = sent && !message.startsWith("Stream isn't writeable")
    if (code !== undefined && replyReasons[code] !== undefined) return fromReply(method, nested, sent)
    return new RedisError({
      reason: "Unavailable",
      outcome: left ? "unknown" : "not-sent",
      method,
      description: code === "ECONNREFUSED" ? "the server refuses connections" : "there is no connection to the server",
      ...(code === undefined ? {} : { code }),
      cause: plain(name === "" ? "Error" : name, nested)
    })
  }
}

const readyCheck = "Ready check failed: "

const replyReasons: Readonly<Record<string, Reason>> = {
  NOAUTH: "Authentication",
  WRONGPASS: "Authentication",
  NOPERM: "Authentication",
  LOADING: "NotReady",
  READONLY: "NotReady",
  MASTERDOWN: "NotReady",
  CLUSTERDOWN: "NotReady",
  TRYAGAIN: "NotReady",
  BUSY: "NotReady",
  NOREPLICAS: "NotReady",
  MISCONF: "NotReady",
  OOM: "OutOfMemory",
  WRONGTYPE: "WrongType"
}

const descriptions: Readonly<Partial<Record<Reason, string>>> = {
  Authentication: "the server wants other credentials or does not allow this: check user and password",
  NotReady: "the server cannot serve this now",
  OutOfMemory: "the server has no memory for a write",
  WrongType: "the key holds another type of value"
}

const replyCode = (message: string): string | undefined => /^([A-Z]{2,})(?:\s|$)/.exec(message)?.[1]

const fromReply = (method: string, message: string, sent = true): RedisError => {
  const code = replyCode(message)
  // old servers say this without a code of its own
  const reason: Reason = /invalid password|max number of clients/i.test(message)
    ? /clients/i.test(message)
      ? "NotReady"
      : "Authentication"
    : (replyReasons[code ?? ""] ?? "Rejected")
  return new RedisError({
    reason,
    outcome: sent ? "rejected" : "not-sent",
    method,
    description: descriptions[reason] ?? "the server refused the command",
    ...(code === undefined ? {} : { code }),
    cause: plain("ReplyError", message)
  })
}

const codeOf = (problem: unknown): string | undefined => {
  if (typeof problem !== "object" || problem === null || !("code" in problem)) return undefined
  return typeof problem.code === "string" ? problem.code : undefined
}

/** The driver hangs a command's arguments on its errors: what goes on is the text alone, without what it quotes. */
const plain = (name: string, message: string): Error => {
  const error = new Error(message.replace(/,? with args beginning with:.*$/s, "").replace(/'[^']*'/g, "'…'"))
  error.name = name
  return error
}
