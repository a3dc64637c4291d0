/**
 * The one error of the Redis client: why a command failed, and whether it can have taken effect.
 *
 * @since 0.1.0
 */
import * as Withheld from "@underlay/core/connection/Withheld"
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
 * - `CrossSlot`: the keys of one operation are in several slots of a Cluster: give them one hash tag.
 * - `Conflict`: a key that was watched has changed: the transaction was not run.
 * - `Unexpected`: the reply has another shape than the command can have.
 * - `Rejected`: any other refusal: of the server, or of this client, where a command would disturb a shared connection.
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
  "CrossSlot",
  "Conflict",
  "Unexpected",
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

const fields = {
  reason: Reason,
  outcome: Outcome,
  method: Schema.String,
  description: Schema.String,
  /** The code of the server (`WRONGTYPE`, `OOM`, …) or of the operating system (`ECONNREFUSED`, …). */
  code: Schema.optionalWith(Schema.String, { exact: true }),
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}

/**
 * A failure of the Redis client. `method` is the name of the command. No key, value or password is in the message or
 * printed with the cause, which is what the server or the driver said without its words: those quote what was asked, and
 * scripts say what they like. `original` is the driver's error itself.
 *
 * @since 0.1.0
 * @category errors
 */
export class RedisError extends Schema.TaggedError<RedisError>("@underlay/redis/RedisError")("RedisError", fields) {
  // Decoding goes through here with the same arguments. Anywhere later is too late: the schema's class keeps what it is given.
  // @effect-diagnostics-next-line overriddenSchemaConstructor:off
  constructor(properties: Schema.Struct.Constructor<typeof fields>, options?: Schema.MakeOptions) {
    super(
      properties.cause === undefined ? properties : { ...properties, cause: Withheld.withhold(properties.cause) },
      options
    )
  }

  /** The driver's error, with its words and the command that it is about: to be looked at, and not to be logged. */
  get original(): unknown {
    return Withheld.originalOf(this.cause)
  }

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

  /**
   * What a driver failed with, as our error. `sent` says whether the command had left this process. Here alone the
   * driver's errors are known.
   */
  static fromUnknown(method: string, problem: unknown, sent: boolean): RedisError {
    if (problem instanceof RedisError) return problem
    const message = problem instanceof Error ? problem.message : String(problem)
    const name = problem instanceof Error ? problem.name : ""
    if (name === "ReplyError") return fromReply(method, problem, message, sent)
    // the server says this and hangs up, before anything was asked
    if (tooManyClients.test(message)) return fromReply(method, problem, "ERR max number of clients reached", false)
    if (message === "Command timed out") {
      return new RedisError({
        reason: "Timeout",
        outcome: sent ? "unknown" : "not-sent",
        method,
        description: "no answer within the command timeout"
      })
    }
    const code = codeOf(problem)
    if (code === "ERR_STRING_TOO_LONG") {
      const description = "the reply is longer than a text can be: read it as bytes"
      return new RedisError({ reason: "Unexpected", outcome: "unknown", method, description, code })
    }
    if (problem instanceof RangeError) {
      const description = "the command is longer than a text can be: send bytes"
      return new RedisError({ reason: "Rejected", outcome: "not-sent", method, description })
    }
    const certificate = code !== undefined && /CERT|SIGNED|^ERR_(?:TLS|SSL|OSSL)|^EPROTO$/.test(code)
    return new RedisError({
      reason: "Unavailable",
      outcome: sent && !message.startsWith("Stream isn't writeable") ? "unknown" : "not-sent",
      method,
      description: certificate
        ? "the TLS connection cannot be made: check certificate, authority and server name"
        : code === "ECONNREFUSED"
          ? "the server refuses connections"
          : "there is no connection to the server",
      ...(code === undefined ? {} : { code }),
      ...(problem === undefined ? {} : { cause: problem })
    })
  }

  /** @internal */
  static fromDatabase(method: string, problem: unknown): RedisError {
    return new RedisError({
      reason: "Rejected",
      outcome: "not-sent",
      method,
      description: "the server does not let this user have this database: check its number",
      ...(problem === undefined ? {} : { cause: problem })
    })
  }
}

const tooManyClients = /max number of clients/i

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
  MOVED: "NotReady",
  ASK: "NotReady",
  UNBLOCKED: "NotReady",
  CROSSSLOT: "CrossSlot",
  OOM: "OutOfMemory",
  WRONGTYPE: "WrongType"
}

/** What a server says to any write: a script that hears it has written nothing. */
const atFirstWrite: ReadonlySet<string> = new Set(["OOM", "READONLY", "MISCONF", "NOREPLICAS"])

const descriptions: Readonly<Partial<Record<Reason, string>>> = {
  Authentication: "the server wants other credentials or does not allow this: check user and password",
  NotReady: "the server cannot serve this now",
  OutOfMemory: "the server has no memory for a write",
  WrongType: "the key holds another type of value",
  CrossSlot: "the keys are in several slots of the Cluster: give them one hash tag"
}

const replyCode = (message: string): string | undefined => /^([A-Z]{2,})(?:\s|$)/.exec(message)?.[1]

/** What servers say often and without a code of its own. */
const sayings: ReadonlyArray<readonly [RegExp, string]> = [
  [/@user_(?:script|function)|\buser_(?:script|function):|^ERR Error (?:compiling|running) script/, "a script failed"],
  [/^ERR unknown (?:sub)?command/i, "the server does not know this command: it may be too old, or call it otherwise"],
  [/^ERR wrong number of arguments/i, "the command wants another number of arguments"],
  [/^ERR syntax error/i, "the server does not understand the arguments of the command"],
  [/^ERR (?:hash )?value is not (?:an integer|a valid float)/i, "the value is no number, or out of range"],
  [/cluster support disabled/i, "the server is no Cluster: give its host and port, and no nodes"]
]

const saying = (message: string): string | undefined => sayings.find(([known]) => known.test(message))?.[1]

const fromReply = (method: string, problem: unknown, message: string, sent: boolean): RedisError => {
  const code = replyCode(message)
  // these come without a code of their own
  const reason: Reason = tooManyClients.test(message)
    ? "NotReady"
    : /invalid password/i.test(message)
      ? "Authentication"
      : (replyReasons[code ?? ""] ?? "Rejected")
  // a script that failed half way has done what came before, unless it was refused at its first write
  const halfWay = /@user_(?:script|function)\b/.test(message) && !atFirstWrite.has(code ?? "")
  return new RedisError({
    reason,
    outcome: sent ? (halfWay ? "unknown" : "rejected") : "not-sent",
    method,
    description: descriptions[reason] ?? saying(message) ?? "the server refused the command",
    ...(code === undefined ? {} : { code }),
    cause: problem
  })
}

const codeOf = (problem: unknown): string | undefined => {
  if (typeof problem !== "object" || problem === null || !("code" in problem)) return undefined
  return typeof problem.code === "string" ? problem.code : undefined
}
