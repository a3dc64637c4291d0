/**
 * One connection to a Redis server. Every command settles within its timeout or fails typed, none is sent twice behind
 * the caller's back, and nothing is emitted per operation: no span, no log line, no metric.
 *
 * @since 0.1.0
 */
import { createHash } from "node:crypto"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { Argument, MakeDriver } from "./internal/driver.ts"
import * as IoredisDriver from "./internal/ioredisDriver.ts"
import { RedisError } from "./RedisError.ts"
import * as RedisSettings from "./RedisSettings.ts"

/**
 * An argument of a command.
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
 * How the connection stands.
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
 * Plain counters since the client was made, read on demand.
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
  /** Commands that failed without being sent: no connection, overloaded, closed. */
  readonly notSent: number
  readonly connects: number
  readonly disconnects: number
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
  /** Sends several in one go and gives each one's own result. They are not a transaction. */
  readonly sendMany: (steps: ReadonlyArray<Step>) => Effect.Effect<ReadonlyArray<Either.Either<Reply, RedisError>>>
  /** Runs a script. */
  readonly run: (
    script: Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<RedisArgument>
  ) => Effect.Effect<Reply, RedisError>
  readonly state: Effect.Effect<ConnectionState>
  readonly stats: Effect.Effect<Stats>
}

/**
 * The Redis client of an application.
 *
 * @since 0.1.0
 * @category tags
 */
export class RedisClient extends Context.Tag("@underlay/redis/RedisClient")<RedisClient, Service>() {}

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
  /** The name of the connection in the server's list of clients. */
  readonly name?: string | undefined
}

/**
 * What the program says about the server, and how the client behaves.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends RedisSettings.Explicit, Behaviour {}

/**
 * Makes a client of resolved settings. It is released with the scope, at once, whether or not the server is there.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  settings: RedisSettings.RedisSettings,
  behaviour: Behaviour = {}
): Effect.Effect<Service, RedisError, Scope.Scope> => makeWith(IoredisDriver.make, settings, behaviour)

/**
 * The client as a layer, with what the program says and the defaults for the rest; no environment is read.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<RedisClient, RedisError | ConfigError.ConfigError> =>
  Layer.scoped(
    RedisClient,
    Effect.flatMap(RedisSettings.fromExplicit(options), (settings) => make(settings, options))
  )

/**
 * The client as a layer, with its settings found in the five places of `RedisSettings.load`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (options: Options = {}): Layer.Layer<RedisClient, RedisError | ConfigError.ConfigError> =>
  Layer.scoped(
    RedisClient,
    Effect.flatMap(RedisSettings.load(options), (settings) => make(settings, options))
  )

type Settle = (result: Either.Either<Reply, RedisError>) => void

interface Pending {
  readonly method: string
  readonly settle: Settle
  /** Replies that had come when it was sent. None more at its timeout: the connection is frozen. */
  readonly repliesBefore: number
}

interface Waiting {
  readonly method: string
  readonly start: () => void
  readonly settle: Settle
  readonly timer: ReturnType<typeof setTimeout>
}

/** @internal */
export const makeWith = (
  makeDriver: MakeDriver,
  settings: RedisSettings.RedisSettings,
  behaviour: Behaviour
): Effect.Effect<Service, RedisError, Scope.Scope> =>
  Effect.gen(function* () {
    const maxInFlight = Math.max(1, Math.floor(behaviour.maxInFlight ?? 10_000) || 1)
    const answerAtOnce = behaviour.answerAtOnce !== false
    const commandTimeout = Math.max(1, Duration.toMillis(settings.commandTimeout))
    const connectTimeout = Math.max(1, Duration.toMillis(settings.connectTimeout))

    // plain mutable state: this is the hot path, and it is entered from driver callbacks
    let state: ConnectionState = "idle"
    let lastProblem: unknown
    const pending = new Set<Pending>()
    const waiting = new Set<Waiting>()
    const watchers = new Set<() => void>()
    const counts = { sent: 0, answered: 0, refused: 0, timedOut: 0, lost: 0, notSent: 0, connects: 0, disconnects: 0 }

    const notSent = (reason: "Unavailable" | "Overloaded" | "Closed", method: string, description: string) => {
      counts.notSent++
      return Either.left(new RedisError({ reason, outcome: "not-sent", method, description }))
    }

    const away = (method: string): Either.Either<never, RedisError> => {
      if (lastProblem === undefined) return notSent("Unavailable", method, "there is no connection to the server")
      counts.notSent++
      return Either.left(RedisError.fromUnknown(method, lastProblem, false))
    }

    const settleWaiting = (each: (one: Waiting) => void): void => {
      const all = [...waiting]
      waiting.clear()
      for (const one of all) {
        clearTimeout(one.timer)
        each(one)
      }
    }

    /** What was under way may have been done: the connection went before the answer came. */
    const losePending = (reason: "Unavailable" | "Closed", description: string): void => {
      const all = [...pending]
      pending.clear()
      for (const { method, settle } of all) {
        counts.lost++
        settle(Either.left(new RedisError({ reason, outcome: "unknown", method, description })))
      }
    }

    const tell = (): void => {
      for (const watcher of [...watchers]) watcher()
    }

    const driver = makeDriver(
      {
        settings,
        reconnectDelay: Math.max(1, Duration.toMillis(behaviour.reconnectDelay ?? "250 millis")),
        name: behaviour.name
      },
      {
        onReady: () => {
          state = "ready"
          lastProblem = undefined
          counts.connects++
          settleWaiting((one) => one.start())
          tell()
        },
        onAway: (problem) => {
          if (state === "closed") return
          if (state === "ready") counts.disconnects++
          state = "away"
          lastProblem = problem
          losePending("Unavailable", "the connection was lost before the answer came")
          if (answerAtOnce) settleWaiting((one) => one.settle(away(one.method)))
          tell()
        }
      }
    )

    const write = (method: string, name: string, args: ReadonlyArray<Argument>, settle: Settle): void => {
      const one: Pending = { method, settle, repliesBefore: counts.answered + counts.refused }
      pending.add(one)
      counts.sent++
      driver.send(name, args, (problem, reply) => {
        // it was settled when its connection was lost
        if (!pending.delete(one)) return
        if (problem === undefined) {
          counts.answered++
          settle(Either.right(reply as Reply))
          return
        }
        const error = RedisError.fromUnknown(method, problem, true)
        if (error.reason === "Timeout") {
          counts.timedOut++
          settle(Either.left(error))
          // nothing at all has come since: what would be sent on this connection would only pile up
          if (state === "ready" && counts.answered + counts.refused === one.repliesBefore) driver.reset()
          return
        }
        if (error.outcome === "rejected") counts.refused++
        else counts.lost++
        settle(Either.left(error))
      })
    }

    /** Begins a command. What it gives back, if anything, takes the command back that has not been sent yet. */
    const dispatch = (
      method: string,
      name: string,
      args: ReadonlyArray<Argument>,
      settle: Settle
    ): (() => void) | undefined => {
      if (state === "ready") {
        if (pending.size >= maxInFlight) {
          settle(notSent("Overloaded", method, `${maxInFlight} commands are under way already`))
        } else write(method, name, args, settle)
        return undefined
      }
      if (state === "closed") {
        settle(notSent("Closed", method, "the client is released"))
        return undefined
      }
      if (state === "away" && answerAtOnce) {
        settle(away(method))
        return undefined
      }
      if (waiting.size + pending.size >= maxInFlight) {
        settle(notSent("Overloaded", method, `${maxInFlight} commands wait already`))
        return undefined
      }
      const one: Waiting = {
        method,
        settle,
        start: () => write(method, name, args, settle),
        timer: setTimeout(() => {
          if (!waiting.delete(one)) return
          counts.timedOut++
          settle(
            Either.left(
              new RedisError({
                reason: "Timeout",
                outcome: "not-sent",
                method,
                description: "no connection to the server within the command timeout"
              })
            )
          )
        }, commandTimeout)
      }
      waiting.add(one)
      if (state === "idle") {
        state = "connecting"
        driver.connect()
      }
      return () => {
        if (!waiting.delete(one)) return
        clearTimeout(one.timer)
        counts.notSent++
      }
    }

    const dispatchScript = (
      { name, sha, source }: Script,
      keys: ReadonlyArray<string>,
      args: ReadonlyArray<RedisArgument>,
      settle: Settle
    ): (() => void) | undefined => {
      let abandoned = false
      const takeBack = dispatch(name, "EVALSHA", [sha, keys.length, ...keys, ...args], (result) => {
        // the server has not seen it yet, or has forgotten it: nothing was done
        if (!abandoned && Either.isLeft(result) && result.left.code === "NOSCRIPT") {
          dispatch(name, "EVAL", [source, keys.length, ...keys, ...args], settle)
        } else settle(result)
      })
      return () => {
        abandoned = true
        takeBack?.()
      }
    }

    const dispatchStep = (step: Step, settle: Settle): (() => void) | undefined => {
      if ("script" in step) return dispatchScript(step.script, step.keys, step.args, settle)
      const [name, ...args] = step
      return dispatch(name, name, args, settle)
    }

    const single = (begin: (settle: Settle) => (() => void) | undefined): Effect.Effect<Reply, RedisError> =>
      Effect.async((resume) => {
        const takeBack = begin(resume)
        return takeBack === undefined ? undefined : Effect.sync(takeBack)
      })

    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        state = "closed"
        settleWaiting((one) => one.settle(notSent("Closed", one.method, "the client is released")))
        losePending("Closed", "the client was released before the answer came")
        watchers.clear()
        driver.close()
      })
    )

    if (behaviour.connect !== "lazy") {
      yield* Effect.async<void, RedisError>((resume) => {
        const done = (result: Effect.Effect<void, RedisError>): void => {
          clearTimeout(timer)
          watchers.delete(watcher)
          resume(result)
        }
        const watcher = (): void => {
          if (state === "ready") done(Effect.void)
          else if (state === "away") done(Effect.fail(RedisError.fromUnknown("connect", lastProblem, false)))
        }
        // the server may accept and then not answer, or load its data for ever
        const timer = setTimeout(
          () =>
            done(
              Effect.fail(
                new RedisError({
                  reason: "Timeout",
                  outcome: "not-sent",
                  method: "connect",
                  description: `the server was not ready within ${connectTimeout} ms`
                })
              )
            ),
          connectTimeout
        )
        watchers.add(watcher)
        state = "connecting"
        driver.connect()
        return Effect.sync(() => {
          clearTimeout(timer)
          watchers.delete(watcher)
        })
      })
    }

    return {
      send: (...[name, ...args]) => single((settle) => dispatch(name, name, args, settle)),
      run: (script, keys, args) => single((settle) => dispatchScript(script, keys, args, settle)),
      sendMany: (steps) => {
        if (steps.length === 0) return Effect.succeed([])
        return Effect.async((resume) => {
          const results: Array<Either.Either<Reply, RedisError>> = new Array(steps.length)
          let left = steps.length
          const takeBack = steps.map((step, index) =>
            dispatchStep(step, (result) => {
              results[index] = result
              left--
              if (left === 0) resume(Effect.succeed(results))
            })
          )
          return Effect.sync(() => {
            for (const one of takeBack) one?.()
          })
        })
      },
      state: Effect.sync(() => state),
      stats: Effect.sync(() => ({ state, inFlight: pending.size, waiting: waiting.size, ...counts }))
    }
  })
