/**
 * What the client of Redis says and is asked: commands and replies, scripts, states, counters, options. Everything here
 * is part of `RedisClient`.
 *
 * @since 0.1.0
 */
import { createHash } from "node:crypto"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { RedisDriver } from "../RedisDriver.ts"
import type { RedisError } from "../RedisError.ts"
import type * as RedisSettings from "../RedisSettings.ts"
import type { Argument } from "./driver.ts"

/**
 * An argument of a command: text, a number, bytes.
 *
 * @since 0.1.0
 * @category models
 */
export type RedisArgument = Argument

/**
 * What a server answers: text, integers, null and lists of these.
 *
 * @since 0.1.0
 * @category models
 */
export type Reply = string | number | null | ReadonlyArray<Reply>

/**
 * What a server answers, with text as bytes.
 *
 * @since 0.1.0
 * @category models
 */
export type BinaryReply = Uint8Array | number | null | ReadonlyArray<BinaryReply>

/**
 * One command: its name and its arguments.
 *
 * @since 0.1.0
 * @category models
 */
export type Command = readonly [name: string, ...args: ReadonlyArray<RedisArgument>]

/**
 * A Lua script, run by its hash and sent whole when the server does not know it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Script {
  readonly name: string
  readonly source: string
  readonly sha: string
}

/**
 * Makes a script. `name` stands in errors.
 *
 * @since 0.1.0
 * @category constructors
 */
export const script = (name: string, source: string): Script => ({
  name,
  source,
  sha: createHash("sha1").update(source).digest("hex")
})

/**
 * A script with its keys and arguments.
 *
 * @since 0.1.0
 * @category models
 */
export interface ScriptStep {
  readonly script: Script
  readonly keys: ReadonlyArray<string>
  readonly args: ReadonlyArray<RedisArgument>
}

/**
 * One step of `sendMany`.
 *
 * @since 0.1.0
 * @category models
 */
export type Step = Command | ScriptStep

/**
 * How the connection stands. On a Cluster: `ready` while every slot is served, as far as is known.
 *
 * - `idle`: lazy, and nobody has asked for anything yet.
 * - `connecting`: the first attempt is under way; commands wait for it, within their timeout.
 * - `ready`
 * - `away`: the connection is lost or was never had; it is being looked for.
 * - `closed`: released.
 *
 * @since 0.1.0
 * @category models
 */
export type ConnectionState = "idle" | "connecting" | "ready" | "away" | "closed"

/**
 * Plain counters since the client was made, read on demand. Isolated connections and subscriptions are not in them, but
 * for the last three.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly state: ConnectionState
  /** Commands that are sent and not answered. */
  readonly inFlight: number
  /** Commands that wait for the connection. */
  readonly waiting: number
  readonly sent: number
  readonly answered: number
  /** Refusals of the server. */
  readonly refused: number
  readonly timedOut: number
  /** Commands whose connection was lost under them. */
  readonly lost: number
  /** Commands that failed without being sent: no connection, overloaded, closed, not allowed. */
  readonly notSent: number
  /** Commands that a node of a Cluster sent on to another. */
  readonly redirected: number
  /** Attempts to connect that were begun. */
  readonly attempts: number
  readonly connects: number
  readonly disconnects: number
  /** Connections that were had again after a loss. */
  readonly reconnects: number
  readonly isolated: number
  readonly isolatedIdle: number
  readonly listeners: number
}

/**
 * What a listener hears. `Ready`: everything that is said from now on is heard; it comes again after each `Lost`. `Lost`:
 * what is said meanwhile is not heard.
 *
 * @since 0.1.0
 * @category models
 */
export type Heard =
  | { readonly _tag: "Ready" }
  | { readonly _tag: "Lost" }
  | { readonly _tag: "Message"; readonly channel: string; readonly payload: string }

/**
 * What is heard of keys that are tracked. `Ready` and `Lost` as in `Heard`: what was kept of the keys is to be forgotten
 * at `Lost`. `Invalidated`: these keys were written, deleted, evicted or have expired, whoever did it; null stands for
 * all keys, as after `FLUSHALL`. Keys are bytes.
 *
 * @since 0.1.0
 * @category models
 */
export type Tracked =
  | { readonly _tag: "Ready" }
  | { readonly _tag: "Lost" }
  | { readonly _tag: "Invalidated"; readonly keys: ReadonlyArray<Uint8Array> | null }

/**
 * A connection of one's own: for blocking commands, and for transactions with `WATCH`. When it is lost, its calls fail
 * as `Unavailable` until another is taken.
 *
 * @since 0.1.0
 * @category models
 */
export interface Isolated {
  readonly send: Service["send"]
  readonly sendMany: Service["sendMany"]
  readonly run: Service["run"]
  /**
   * Sends a command that may take as long as `timeout`, and one second more: for `BLPOP`, `XREAD BLOCK` and the like. The
   * command says its own time to the server.
   */
  readonly block: (timeout: Duration.DurationInput, ...command: Command) => Effect.Effect<Reply, RedisError>
  /** As `Service.transaction`; fails as `Conflict` where a key that was watched on this connection has changed. */
  readonly transaction: Service["transaction"]
}

/**
 * One node that holds keys.
 *
 * @since 0.1.0
 * @category models
 */
export interface Node {
  /** `host:port`. */
  readonly id: string
  readonly send: Service["send"]
  readonly sendMany: Service["sendMany"]
}

/**
 * The client: commands in, replies out.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /** Sends one command. Interrupting it takes it back while it waits for the connection; what is sent is sent. */
  readonly send: (...command: Command) => Effect.Effect<Reply, RedisError>
  /** As `send`, with text in the reply as bytes. */
  readonly sendBuffer: (...command: Command) => Effect.Effect<BinaryReply, RedisError>
  /** Sends several in one go and gives each one's own result. They are not a transaction. */
  readonly sendMany: (steps: ReadonlyArray<Step>) => Effect.Effect<ReadonlyArray<Either.Either<Reply, RedisError>>>
  /** As `sendMany`, with text in the replies as bytes. */
  readonly sendManyBuffer: (
    steps: ReadonlyArray<Step>
  ) => Effect.Effect<ReadonlyArray<Either.Either<BinaryReply, RedisError>>>
  /** Runs a script. On a Cluster its keys must share one slot. */
  readonly run: (
    script: Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<RedisArgument>
  ) => Effect.Effect<Reply, RedisError>
  /** As `run`, with text in the reply as bytes. */
  readonly runBuffer: (
    script: Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<RedisArgument>
  ) => Effect.Effect<BinaryReply, RedisError>
  /**
   * Runs the steps between `MULTI` and `EXEC`, in one go on the shared connection. Nobody else's command comes between
   * them, and where the server refuses a step when it is queued none is run: the effect fails with that refusal. A step
   * that fails when it runs is its own `Left`, and **the others are done all the same**: Redis does not roll back.
   * Scripts go by their source: a hash that the server does not know would fail while the others are applied. On a
   * Cluster all keys must share one slot, or it fails as `CrossSlot` before anything is sent.
   */
  readonly transaction: (
    steps: ReadonlyArray<Step>
  ) => Effect.Effect<ReadonlyArray<Either.Either<Reply, RedisError>>, RedisError>
  /**
   * A connection of one's own, until the scope closes, from a pool of at most `maxConnections`. Where all are in use it
   * waits, within the connect timeout, and fails as `Overloaded` then. On a Cluster it is to the node that has `key` (any
   * node without one), and stays there.
   */
  readonly isolated: (options?: {
    readonly key?: string | undefined
  }) => Effect.Effect<Isolated, RedisError, Scope.Scope>
  /**
   * Listens to channels, or to a pattern of channels, until the scope closes. All listeners share one connection, made
   * with the first. `handler` is called synchronously and in order; it must not throw. Returns when the server has
   * confirmed, or when there is no connection within the command timeout: `Ready` comes when there is. Fails where the
   * server does not allow the channels.
   */
  readonly listen: (
    channels: ReadonlyArray<string> | { readonly pattern: string },
    handler: (event: Heard) => void
  ) => Effect.Effect<void, RedisError, Scope.Scope>
  /**
   * Hears of every change of a key that begins with one of the prefixes, until the scope closes: the server's tracking of
   * clients (`CLIENT TRACKING … BCAST`, from Redis 6), redirected to the connection itself, so that it ends and begins
   * with it. That connection belongs to this listener alone, and other commands do not come over it. Prefixes must not
   * overlap; an empty one stands for every key. `handler` and what is returned are as in `listen`. Fails as `Rejected`
   * on a Cluster, where every node tells of its own keys only.
   */
  readonly track: (
    prefixes: ReadonlyArray<string>,
    handler: (event: Tracked) => void
  ) => Effect.Effect<void, RedisError, Scope.Scope>
  /** Every node that holds keys: the one server, or all masters of a Cluster. For `SCAN` and the like. */
  readonly nodes: Effect.Effect<ReadonlyArray<Node>, RedisError>
  readonly topology: "standalone" | "sentinel" | "cluster"
  readonly state: Effect.Effect<ConnectionState>
  /** The state now and every change of it, until the client is released. */
  readonly changes: Stream.Stream<ConnectionState>
  readonly stats: Effect.Effect<Stats>
}

/**
 * How the client behaves. Where the server is stands in `RedisSettings`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Behaviour {
  /**
   * `eager` (default): the layer is built when the server answers, and fails typed when it does not. `lazy`: the layer
   * is built at once and connects when it is first used.
   */
  readonly connect?: "eager" | "lazy" | undefined
  /**
   * Whether commands fail at once while the server is known to be away (default), or wait for it within their timeout.
   */
  readonly answerAtOnce?: boolean | undefined
  /**
   * The greatest number of commands under way or waiting; more fail as `Overloaded`. The stores send up to 500 in one go:
   * with less than that, large ones fail. Default: 10,000.
   */
  readonly maxInFlight?: number | undefined
  /** The longest pause between two attempts to reconnect. Default: 250 milliseconds. */
  readonly reconnectDelay?: Duration.DurationInput | undefined
  /** The greatest number of bytes that wait to go out; commands fail as `Overloaded` then. Default: 64 MiB. */
  readonly maxBuffered?: number | undefined
  /** The name of the connections in the server's list of clients. */
  readonly name?: string | undefined
  /** The greatest number of isolated connections. Default: 20. */
  readonly maxConnections?: number | undefined
  /** How long an isolated connection that nobody uses is kept. Default: 30 seconds. */
  readonly idle?: Duration.DurationInput | undefined
  /**
   * Sends the commands of one turn of the event loop in one piece: more of them a second where many fibers send at once,
   * for a little latency where few do. Default: off. Not on a Cluster: a client that asks for it there is not made.
   */
  readonly autoPipelining?: boolean | undefined
  /** What speaks the protocol. Default: the ioredis of this package. */
  readonly driver?: RedisDriver | undefined
}

/**
 * What the program says about the server, and how the client behaves.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends RedisSettings.Explicit, Behaviour {}
