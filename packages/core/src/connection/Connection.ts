/**
 * The contract of a connection to a database, a store or an outside service: a scoped client that is used, checked and
 * counted the same way whatever is behind it. A package describes what it can connect to as a `Kind`.
 *
 * @since 0.1.0
 */
import type * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { originalOf, withheld } from "../internal/connection/withheld.ts"
import { configOf } from "../internal/settings/schemaConfig.ts"
import type { ErrorClass } from "../resilience/ErrorClass.ts"

/**
 * How a connection is treated: `internal` emits nothing, `external` is watched by `ExternalClient` (one span, one log
 * line and metrics for each operation).
 *
 * @since 0.1.0
 * @category models
 */
export type Plane = "internal" | "external"

/**
 * When a connection is made: `eager` before anything else starts, which fails if it cannot be; `lazy` with the first
 * call; `background` at once, but nobody waits for it and it is tried again until it succeeds.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectMode = "eager" | "lazy" | "background"

/**
 * Where a connection is in its life. `idle`: it is lazy and nobody has asked yet. `down`: the last attempt, or the last
 * look at its health, failed. `draining`: it is being released and waits for what is under way.
 *
 * @since 0.1.0
 * @category models
 */
export type State = "idle" | "connecting" | "ready" | "down" | "draining" | "closed"

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
 * How many clients (sockets, sessions, backends) a connection has. `waiting` counts callers in the queue for one;
 * `acquire` is how long callers waited for one since it was made, in milliseconds, where that is known.
 *
 * @since 0.1.0
 * @category models
 */
export interface ConnectionStats {
  readonly total: number
  readonly idle: number
  readonly inUse: number
  readonly waiting: number
  readonly acquire?: { readonly count: number; readonly totalMs: number; readonly maxMs: number } | undefined
}

/**
 * How a connection was released: how many calls were under way when that began, how many of them ended by themselves, how
 * many were cut because they did not within its drain timeout, and how long it took in milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface DrainReport {
  readonly kind: string
  readonly name: string
  readonly inUse: number
  readonly finished: number
  readonly cut: number
  readonly tookMs: number
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

const errorFields = {
  reason: ConnectionErrorReason,
  kind: Schema.String,
  connection: Schema.String,
  method: Schema.String,
  description: Schema.String,
  code: Schema.optionalWith(Schema.String, { exact: true }),
  retryAfter: Schema.optionalWith(Schema.DurationFromSelf, { exact: true }),
  sent: Schema.optionalWith(Schema.Boolean, { exact: true }),
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}

/**
 * The one error of connections. `description` says what to do and never holds a secret or a row; `code` is the driver's
 * own code (an SQLSTATE, an errno), where there is one; `sent` is false where it is certain that nothing reached the other
 * side.
 *
 * `cause` is what the driver threw, without its words, which repeat rows and keys and would be logged with it: its fields
 * can be read by their names, and nothing of them is printed or cloned. `original` is the driver's error itself.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConnectionError extends Schema.TaggedError<ConnectionError>()("ConnectionError", errorFields) {
  // Decoding goes through here with the same arguments. Anywhere later is too late: the schema's class keeps what it is given.
  // @effect-diagnostics-next-line overriddenSchemaConstructor:off
  constructor(properties: Schema.Struct.Constructor<typeof errorFields>, options?: Schema.MakeOptions) {
    super(properties.cause === undefined ? properties : { ...properties, cause: withheld(properties.cause) }, options)
    // A clone has of an error what is its own.
    Object.defineProperty(this, "message", { value: this.message, writable: true, configurable: true })
  }

  /** The same error with some fields changed; its cause stays, which a spread leaves out. */
  with(changes: Partial<Schema.Struct.Constructor<typeof errorFields>>): ConnectionError {
    const { cause } = this
    return new ConnectionError({ ...this, ...(cause === undefined ? {} : { cause }), ...changes })
  }

  /** What the driver threw, with its words: to be looked at, and not to be logged. */
  get original(): unknown {
    return originalOf(this.cause)
  }

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

  /** What it means for policies and retries. */
  get errorClass(): ErrorClass {
    return this.reason === "Throttled" ? "rate-limited" : this.isRetryable ? "transient" : "permanent"
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
  readonly state: Effect.Effect<State>
  /** Waits until the connection is released, and tells how that went. */
  readonly drained: Effect.Effect<DrainReport>
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
  /** The schema of its settings as they are written, where there is one: the JSON Schema of a configuration is made of it. */
  readonly schema?: Schema.Schema.AnyNoContext | undefined
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
  readonly schema?: Schema.Schema.AnyNoContext | undefined
}

/**
 * Describes something that can be connected to, so that `Connections.layer` can be given it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind = <Client, Settings>(options: Kind<Client, Settings>): Kind<Client, Settings> => options

/**
 * A kind whose settings are described by a schema: they are read from any `ConfigProvider` (texts become numbers,
 * booleans, durations and lists where the schema wants those), every missing and every wrong field is reported at once
 * with its path and never its value, and the JSON Schema of a configuration knows of it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kindOf = <Client, A, I>(options: {
  readonly kind: string
  readonly schema: Schema.Schema<A, I>
  readonly make: (name: string, settings: A) => Effect.Effect<Connection<Client>, ConnectionError, Scope.Scope>
  readonly idleTimeToLive?: Duration.DurationInput | undefined
}): Kind<Client, A> => ({ ...options, settings: configOf(options.schema) })

/**
 * Reads settings by a schema from any `ConfigProvider`, as `kindOf` does.
 *
 * @since 0.1.0
 * @category schemas
 */
export const configOfSchema: <A, I>(schema: Schema.Schema<A, I>) => Config.Config<A> = configOf

const duration = Schema.transformOrFail(
  Schema.String.annotations({ description: 'a duration such as "5 seconds"' }),
  Schema.DurationFromSelf,
  {
    strict: true,
    decode: (text, _, ast) =>
      Option.match(Duration.decodeUnknown(text), {
        onNone: () => ParseResult.fail(new ParseResult.Type(ast, text)),
        onSome: ParseResult.succeed
      }),
    encode: (value) => ParseResult.succeed(Duration.isFinite(value) ? `${Duration.toMillis(value)} millis` : "Infinity")
  }
).annotations({ identifier: "Duration", description: 'a duration such as "5 seconds"' })

/**
 * Schemas of settings, for `kindOf`: each can be read from a configuration, which has texts only.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Fields = {
  /** `"5 seconds"`, as `Duration.decode` takes it. */
  Duration: duration,
  /** A text that is never shown. */
  Secret: Schema.Redacted(Schema.NonEmptyString.annotations({ description: "text that is not empty" })),
  Text: Schema.NonEmptyString.annotations({ description: "text that is not empty" }),
  /** An absolute URL. */
  Url: Schema.URL.annotations({ description: "an absolute URL" }),
  Plane: Schema.Literal("internal", "external"),
  ConnectMode: Schema.Literal("eager", "lazy", "background"),
  /** A whole number from 1 up. */
  Count: Schema.Int.pipe(Schema.greaterThanOrEqualTo(1)).annotations({ description: "a whole number from 1 up" }),
  Flag: Schema.Boolean,
  Port: Schema.Int.pipe(Schema.between(1, 65_535)).annotations({ description: "a port (1 to 65535)" })
}
