/**
 * memcached: a client of our own for its meta protocol (1.6 and later), pipelined on one socket a server, over several
 * servers by consistent hashing. Nothing is sent twice behind the caller's back.
 *
 * @since 0.1.0
 */
import {
  type CheckResult,
  type Connection,
  ConnectionError,
  type ConnectMode,
  configOfSchema,
  Fields,
  type Kind,
  kindOf,
  type Plane
} from "@underlay/core/connection/Connection"
import * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import type * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Client from "../internal/memcached/client.ts"
import * as Ring from "../internal/memcached/ring.ts"

/**
 * What was found at a key.
 *
 * @since 0.1.0
 * @category models
 */
export interface Item {
  readonly value: Buffer
  /** The 32 bits that were stored with it. */
  readonly flags: number
  /** Names this version of the item, for `cas` and `delete`. */
  readonly cas: string
}

/**
 * Options of one write.
 *
 * @since 0.1.0
 * @category models
 */
export interface WriteOptions {
  /**
   * How long it is kept. The server counts whole seconds, so it is rounded up to them; they begin when the server's do, so
   * an item can end up to a second early. More than 30 days are sent as a date, as the protocol wants it, and the last one
   * is 2038-01-19. Default: until it is evicted.
   */
  readonly ttl?: Duration.DurationInput | undefined
  /** 32 bits to store with it: 0. */
  readonly flags?: number | undefined
}

/**
 * Options of `increment`.
 *
 * @since 0.1.0
 * @category models
 */
export interface IncrementOptions {
  /** A whole number: 1. A negative one counts down, and no further than to 0. */
  readonly by?: number | bigint | undefined
  /** The number to begin with where there is none; without it nothing is made. */
  readonly initial?: number | bigint | undefined
  /** How long a number that is made is kept, or, without `initial`, how long one that is there is kept from now on. */
  readonly ttl?: Duration.DurationInput | undefined
}

/**
 * The operations. Keys are texts of 1 to 250 bytes without spaces and control characters: any other is `InvalidRequest`,
 * or is kept under its digest with `keys: "hash"`. Values are bytes, or text that is written as UTF-8, of at most 1 MB.
 *
 * Every operation fails with `ConnectionError`. Its `sent` is false where the server cannot have seen the request; else
 * what was asked may have been done.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  readonly get: (key: string) => Effect.Effect<Option.Option<Item>, ConnectionError>
  /** In the order of the keys, one pipeline for each server. It fails where one server fails. */
  readonly getMany: (keys: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Option.Option<Item>>, ConnectionError>
  readonly set: (
    key: string,
    value: string | Uint8Array,
    options?: WriteOptions
  ) => Effect.Effect<void, ConnectionError>
  /** Writes where there is nothing, and says whether it did. */
  readonly add: (
    key: string,
    value: string | Uint8Array,
    options?: WriteOptions
  ) => Effect.Effect<boolean, ConnectionError>
  /** Writes where there is something, and says whether it did. */
  readonly replace: (
    key: string,
    value: string | Uint8Array,
    options?: WriteOptions
  ) => Effect.Effect<boolean, ConnectionError>
  /** Writes where the item is still the one that `get` gave. */
  readonly cas: (
    key: string,
    value: string | Uint8Array,
    cas: string,
    options?: WriteOptions
  ) => Effect.Effect<"stored" | "changed" | "missing", ConnectionError>
  /** Whether there was something; with a version, whether it was that one. */
  readonly delete: (key: string, cas?: string) => Effect.Effect<boolean, ConnectionError>
  /** Whether there was something, which now lives so long. */
  readonly touch: (key: string, ttl: Duration.DurationInput) => Effect.Effect<boolean, ConnectionError>
  /**
   * Counts, atomically, and gives the new number; nothing where there is none and none is made. Numbers have 64 bits:
   * above that they begin at 0 again. It is never sent twice: where its reply is lost it fails, and may have counted.
   */
  readonly increment: (key: string, options?: IncrementOptions) => Effect.Effect<Option.Option<bigint>, ConnectionError>
  /** Empties every server. */
  readonly flush: Effect.Effect<void, ConnectionError>
  /** What each server says of itself. */
  readonly serverStats: Effect.Effect<
    ReadonlyArray<{ readonly server: string; readonly stats: Readonly<Record<string, string>> }>,
    ConnectionError
  >
}

/**
 * How to reach the servers and how to treat them.
 *
 * @since 0.1.0
 * @category models
 */
export interface MemcachedSettings {
  /** `host`, `host:port`, `[IPv6 address]:port`: `["localhost:11211"]`. All clients must have the same ones. */
  readonly servers?: ReadonlyArray<string> | undefined
  /** `internal`: nothing is emitted. */
  readonly plane?: Plane | undefined
  /** When it is connected to: `eager`, which fails where no server answers. */
  readonly connect?: ConnectMode | undefined
  /** How long making a socket may take, TLS and login included: 2 seconds. */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** How long one request may take: 1 second. */
  readonly commandTimeout?: Duration.DurationInput | undefined
  /** How long the release waits for what is under way: 5 seconds. */
  readonly drainTimeout?: Duration.DurationInput | undefined
  /** 1 second. */
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** What becomes of texts that cannot be keys: `refuse` (default), or `hash`: they are kept under their digest. */
  readonly keys?: "refuse" | "hash" | undefined
  /** What all keys begin with: nothing. */
  readonly keyPrefix?: string | undefined
  /** Larger values are refused before they are sent: 1,048,576. */
  readonly maxValueBytes?: number | undefined
  /** Requests under way to one server, at the most: 10,000. */
  readonly maxPending?: number | undefined
  /** Whether TLS is spoken: no. */
  readonly tls?: boolean | undefined
  /** PEM: the authority that signed the servers' certificates, if it is none of the well-known ones. */
  readonly ca?: string | undefined
  /** PEM: the client's own certificate and its key. */
  readonly cert?: string | undefined
  readonly key?: Redacted.Redacted<string> | undefined
  /** The name in the servers' certificates: each server's host. */
  readonly servername?: string | undefined
  /** The login of servers with an authentication file (`memcached -Y`). */
  readonly username?: string | undefined
  readonly password?: Redacted.Redacted<string> | undefined
  /** On the external plane: from when a call is logged as slow. */
  readonly slowAfter?: Duration.DurationInput | undefined
  /** On the external plane. */
  readonly logLevels?: ExternalClient.LogLevels | undefined
}

/**
 * The settings as they are read from configuration.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct({
  servers: Schema.optional(Schema.NonEmptyArray(Fields.Text)),
  plane: Schema.optional(Fields.Plane),
  connect: Schema.optional(Fields.ConnectMode),
  connectTimeout: Schema.optional(Fields.Duration),
  commandTimeout: Schema.optional(Fields.Duration),
  drainTimeout: Schema.optional(Fields.Duration),
  healthTimeout: Schema.optional(Fields.Duration),
  keys: Schema.optional(Schema.Literal("refuse", "hash")),
  keyPrefix: Schema.optional(Schema.String),
  maxValueBytes: Schema.optional(Fields.Count),
  maxPending: Schema.optional(Fields.Count),
  tls: Schema.optional(Fields.Flag),
  ca: Schema.optional(Fields.Text),
  cert: Schema.optional(Fields.Text),
  key: Schema.optional(Fields.Secret),
  servername: Schema.optional(Fields.Text),
  username: Schema.optional(Fields.Text),
  password: Schema.optional(Fields.Secret),
  slowAfter: Schema.optional(Fields.Duration)
})

/**
 * The operations, as a service.
 *
 * @since 0.1.0
 * @category tags
 */
export class Memcached extends Context.Tag("@underlay/connections/Memcached")<
  Memcached,
  Service & { readonly connection: Connection<Service> }
>() {}

type Made = Context.Tag.Service<typeof Memcached>

const clients = new WeakMap<object, Effect.Effect<Client.Raw, ConnectionError>>()

/**
 * The plain client behind a service: for the adapters of this package, whose plane is the internal one.
 *
 * @internal
 */
export const rawOf = (service: Made): Effect.Effect<Client.Raw, ConnectionError> =>
  clients.get(service) ?? Effect.dieMessage("this service was not made by Memcached.make")

/**
 * The plain client that a connection lends.
 *
 * @internal
 */
export const rawOfLent = (client: Service): Effect.Effect<Client.Raw> =>
  Client.isRaw(client) ? Effect.succeed(client) : Effect.dieMessage("this client was not lent by Memcached.make")

/**
 * Makes a connection. It fails with `InvalidSettings` on what cannot be, and when it is eager with why no server
 * answered. Of several servers one that is away makes its health `degraded` and its share of the keys fail; no other
 * server takes them over, so that none has what is out of date when it is back.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: MemcachedSettings = {},
  name = "memcached"
): Effect.fn.Return<Made, ConnectionError, Scope.Scope> {
  const invalid = (description: string) =>
    new ConnectionError({
      reason: "InvalidSettings",
      kind: "memcached",
      connection: name,
      method: "make",
      description,
      sent: false
    })
  const addresses: Array<Ring.Address> = []
  for (const server of settings.servers ?? ["localhost:11211"]) {
    const address = Ring.parse(server)
    if (typeof address === "string") return yield* invalid(address)
    if (addresses.some((one) => one.host === address.host && one.port === address.port)) {
      return yield* invalid("a server is there twice")
    }
    addresses.push(address)
  }
  if (addresses.length === 0) return yield* invalid("there is no server")
  if ((settings.username === undefined) !== (settings.password === undefined)) {
    return yield* invalid("a login has both a username and a password")
  }
  const { ca, cert, key, servername } = settings
  const millis = (duration: Duration.DurationInput | undefined, otherwise: number) =>
    duration === undefined ? otherwise : Math.min(Duration.toMillis(duration), 2 ** 31 - 1)
  const { password, username } = settings
  const plane = settings.plane ?? "internal"

  const open = Effect.acquireRelease(
    Effect.sync(() =>
      Client.make({
        name,
        addresses,
        keys: settings.keys ?? "refuse",
        keyPrefix: settings.keyPrefix ?? "",
        maxValueBytes: settings.maxValueBytes ?? 1_048_576,
        maxPending: settings.maxPending ?? 10_000,
        connectTimeout: millis(settings.connectTimeout, 2_000),
        commandTimeout: millis(settings.commandTimeout, 1_000),
        tls:
          settings.tls === true
            ? {
                ...(ca === undefined ? {} : { ca }),
                ...(cert === undefined ? {} : { cert }),
                ...(key === undefined ? {} : { key: Redacted.value(key) }),
                ...(servername === undefined ? {} : { servername })
              }
            : undefined,
        login:
          username === undefined || password === undefined
            ? undefined
            : () => ({ username, password: Redacted.value(password) })
      })
    ),
    (client) => client.close
  )

  const check = (client: Client.Raw) =>
    Effect.flatMap(client.ping, (results): Effect.Effect<CheckResult, ConnectionError> => {
      const away = results.filter(Either.isLeft)
      const [first] = away
      if (first === undefined) return Effect.succeed({ status: "up", details: { servers: results.length } })
      if (away.length === results.length) return Effect.fail(first.left)
      return Effect.succeed({
        status: "degraded",
        details: { servers: results.length, away: away.length, reason: first.left.reason }
      })
    })

  const lifecycle = yield* ConnectionLifecycle.make<Client.Raw>({
    kind: "memcached",
    name,
    plane,
    connect: settings.connect,
    open,
    connectTimeout: settings.connectTimeout ?? "2 seconds",
    drainTimeout: settings.drainTimeout,
    healthTimeout: settings.healthTimeout,
    check,
    // `close` fails what is under way, and nothing else is waited for
    callsEndWithClient: true,
    stats: (client) => client.stats,
    watch: { slowAfter: settings.slowAfter, logLevels: settings.logLevels }
  })

  const again = { idempotent: true }
  const once = { idempotent: false }
  const { call } = lifecycle
  const service: Made = {
    get: (key) => call("get", (client) => client.get(key), again),
    getMany: (keys) => call("getMany", (client) => client.getMany(keys), again),
    set: (key, value, options) => call("set", (client) => client.set(key, value, options), again),
    // done twice, these say something else the second time
    add: (key, value, options) => call("add", (client) => client.add(key, value, options), once),
    replace: (key, value, options) => call("replace", (client) => client.replace(key, value, options), once),
    cas: (key, value, cas, options) => call("cas", (client) => client.cas(key, value, cas, options), once),
    delete: (key, cas) => call("delete", (client) => client.delete(key, cas), once),
    touch: (key, ttl) => call("touch", (client) => client.touch(key, ttl), again),
    increment: (key, options) => call("increment", (client) => client.increment(key, options), once),
    flush: call("flush", (client) => client.flush, once),
    serverStats: call("serverStats", (client) => client.serverStats, again),
    connection: lifecycle.connection
  }
  clients.set(service, lifecycle.client)
  return service
})

/**
 * @since 0.1.0
 * @category layers
 */
export const layer = (settings: MemcachedSettings = {}): Layer.Layer<Memcached, ConnectionError> =>
  Layer.scoped(Memcached, make(settings))

/**
 * The layer with settings from configuration, below `memcached` unless another path is given.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (path = "memcached"): Layer.Layer<Memcached, ConnectionError | ConfigError> =>
  Layer.scoped(
    Memcached,
    Effect.flatMap(Config.nested(configOfSchema(Settings), path), (settings) => make(settings))
  )

/**
 * The kind `memcached`, for core's `Connections`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<Service, typeof Settings.Type> = kindOf({
  kind: "memcached",
  schema: Settings,
  make: (name, settings) => Effect.map(make(settings, name), (made) => made.connection)
})
