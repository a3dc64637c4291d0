/**
 * The contract of a connection to a database, a store or an outside service: a scoped client that is used, checked and
 * counted the same way whatever is behind it. A package describes what it can connect to as a `Kind`.
 *
 * @since 0.1.0
 */
import type * as Config from "effect/Config"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"

/**
 * How a connection is treated: `internal` emits nothing, `external` is watched by `ExternalClient` (one span, one log
 * line and metrics for each operation).
 *
 * @since 0.1.0
 * @category models
 */
export type Plane = "internal" | "external"

/**
 * The health of a connection as its own check sees it. It has the shape that `Health` registers.
 *
 * @since 0.1.0
 * @category models
 */
export interface CheckResult {
  readonly status: "up" | "degraded" | "down"
  readonly details?: Readonly<Record<string, unknown>> | undefined
}

/**
 * How many clients (sockets, sessions, backends) a connection has. `waiting` counts callers in the queue for one.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConnectionStats {
  readonly total: number
  readonly idle: number
  readonly inUse: number
  readonly waiting: number
}

/**
 * Why a connection failed. `Unavailable`, `Timeout`, `Throttled` and `Conflict` may pass; the others stay until
 * somebody changes something.
 *
 * @since 0.1.0
 * @category errors
 */
export const ConnectionErrorReason = Schema.Literal(
  "Unavailable",
  "Timeout",
  "Throttled",
  "Conflict",
  "ConstraintViolation",
  "Cancelled",
  "Authentication",
  "PermissionDenied",
  "NotFound",
  "InvalidRequest",
  "InvalidSettings",
  "Unsupported",
  "MissingDriver",
  "Closed",
  "Unknown"
)
/**
 * @since 0.1.0
 * @category errors
 */
export type ConnectionErrorReason = typeof ConnectionErrorReason.Type

/**
 * The one error of connections. `description` says what to do and never holds a secret or a row; `cause` is what the
 * driver threw; `code` is the driver's own code (an SQLSTATE, an errno), where there is one.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConnectionError extends Schema.TaggedError<ConnectionError>()("ConnectionError", {
  reason: ConnectionErrorReason,
  kind: Schema.String,
  connection: Schema.String,
  method: Schema.String,
  description: Schema.String,
  code: Schema.optionalWith(Schema.String, { exact: true }),
  retryAfter: Schema.optionalWith(Schema.DurationFromSelf, { exact: true }),
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  /** Whether the same request may succeed later. */
  get isRetryable(): boolean {
    switch (this.reason) {
      case "Unavailable":
      case "Timeout":
      case "Throttled":
      case "Conflict":
        return true
      default:
        return false
    }
  }

  override get message(): string {
    const code = this.code === undefined ? "" : ` [${this.code}]`
    return `${this.kind} "${this.connection}" ${this.method}: ${this.reason}${code}: ${this.description}`
  }
}

/**
 * A connection in use: the client inside is lent to `use` and never outlives the scope that the connection was made in.
 *
 * @since 0.1.0
 * @category models
 */
export interface Connection<out Client> {
  readonly name: string
  readonly kind: string
  readonly plane: Plane
  /** Runs `f` with the client. It fails with `ConnectionError` when there is no client to lend. */
  readonly use: <A, E, R>(f: (client: Client) => Effect.Effect<A, E, R>) => Effect.Effect<A, E | ConnectionError, R>
  /** Asks the other side. It never fails and never hangs: what went wrong is in the result. */
  readonly health: Effect.Effect<CheckResult>
  readonly stats: Effect.Effect<ConnectionStats>
}

/**
 * What a package can connect to: a name, the settings that it reads and how a connection is made of them. `settings`
 * is read below `connections.<name>`. `make` is run in a scope of its own; what it acquires is released when the last
 * user of the connection is gone.
 *
 * @since 0.1.0
 * @category models
 */
export interface Kind<out Client, in out Settings> {
  readonly kind: string
  readonly settings: Config.Config<Settings>
  readonly make: (name: string, settings: Settings) => Effect.Effect<Connection<Client>, ConnectionError, Scope.Scope>
  /** How long a connection that nobody uses is kept, when the registry is not told otherwise. */
  readonly idleTimeToLive?: Duration.DurationInput | undefined
}

/**
 * A kind with its types forgotten: what a registry holds.
 *
 * @since 0.1.0
 * @category models
 */
export interface AnyKind {
  readonly kind: string
  readonly settings: Config.Config<unknown>
  readonly make: (name: string, settings: never) => Effect.Effect<Connection<unknown>, ConnectionError, Scope.Scope>
  readonly idleTimeToLive?: Duration.DurationInput | undefined
}

/**
 * Describes something that can be connected to, so that `Connections.layer` can be given it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind = <Client, Settings>(options: Kind<Client, Settings>): Kind<Client, Settings> => options
