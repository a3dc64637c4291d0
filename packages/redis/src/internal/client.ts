/**
 * Puts the parts of a client together: the router of its topology, the pool of isolated connections, the subscriber.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as RedisDriver from "../RedisDriver.ts"
import type { RedisError } from "../RedisError.ts"
import type { RedisSettings } from "../RedisSettings.ts"
import { type Core, type Counts, failure } from "./call.ts"
import * as Cluster from "./cluster.ts"
import * as Isolated from "./isolated.ts"
import type * as Model from "./model.ts"
import * as Operations from "./operations.ts"
import type { Router } from "./router.ts"
import * as Standalone from "./standalone.ts"
import * as Subscriber from "./subscriber.ts"
import * as Tls from "./tls.ts"

const atLeastOne = (value: number | undefined, otherwise: number): number =>
  Math.max(1, Math.floor(value ?? otherwise) || 1)

const millis = (value: Duration.DurationInput): number => Math.max(1, Duration.toMillis(value))

const noCounts = (): Counts => ({
  inFlight: 0,
  unanswered: 0,
  waiting: 0,
  sent: 0,
  answered: 0,
  refused: 0,
  timedOut: 0,
  lost: 0,
  notSent: 0,
  redirected: 0,
  attempts: 0,
  connects: 0,
  disconnects: 0,
  reconnects: 0
})

export const makeClient = (
  settings: RedisSettings,
  behaviour: Model.Behaviour
): Effect.Effect<Model.Service, RedisError, Scope.Scope> =>
  Effect.gen(function* () {
    const counts = noCounts()
    const core: Core = {
      open: (behaviour.driver ?? RedisDriver.ioredis).open,
      counts,
      commandTimeout: millis(settings.commandTimeout),
      connectTimeout: millis(settings.connectTimeout),
      reconnectDelay: millis(behaviour.reconnectDelay ?? "250 millis"),
      maxInFlight: atLeastOne(behaviour.maxInFlight, 10_000),
      maxBuffered: atLeastOne(behaviour.maxBuffered, 64 * 1024 * 1024),
      answerAtOnce: behaviour.answerAtOnce !== false,
      autoPipelining: behaviour.autoPipelining === true
    }
    /** For connections whose commands are not those of the shared one. */
    const apart = (): Core => ({ ...core, counts: noCounts(), answerAtOnce: true, autoPipelining: false })

    const watchers = new Set<(state: Model.ConnectionState) => void>()
    const progress = new Set<() => void>()
    const onProgress = (): void => {
      for (const watcher of [...progress]) watcher()
    }
    const onState = (state: Model.ConnectionState): void => {
      for (const watcher of [...watchers]) watcher(state)
      onProgress()
    }
    if (behaviour.autoPipelining === true && settings.topology === "cluster") {
      return yield* failure({
        reason: "Rejected",
        outcome: "not-sent",
        method: "connect",
        description: "autoPipelining is not for a Cluster: leave it off there"
      })
    }
    const tls = yield* Tls.read(settings)
    const make = settings.topology === "cluster" ? Cluster.make : Standalone.make
    const router: Router = make({
      core,
      apart,
      settings,
      tls,
      name: behaviour.name,
      onState,
      onProgress,
      onLeft: (present) => subscriber.leave(present)
    })
    const shared = Operations.make(core, {
      submit: router.submit,
      cork: router.cork,
      uncork: router.uncork,
      place: "shared"
    })
    const pool = Isolated.make(apart(), {
      maxConnections: atLeastOne(behaviour.maxConnections, 20),
      idle: Math.min(millis(behaviour.idle ?? "30 seconds"), 2 ** 31 - 1)
    })
    const subscriber = Subscriber.make(apart(), router.listening)
    /** Each has a connection of its own: what is tracked is said once for a connection and cannot be taken back. */
    const trackers = new Set<Subscriber.Subscriber>()
    const track: Model.Service["track"] = (prefixes, handler) =>
      Effect.flatMap(Effect.scope, (scope) =>
        Effect.suspend(() => {
          const { greeting, ...listening } = router.listening
          const refused = (reason: "Rejected" | "Closed", description: string) =>
            failure({ reason, outcome: "not-sent", method: "CLIENT TRACKING", description })
          if (router.state() === "closed") return refused("Closed", "the client is released")
          if (router.topology === "cluster")
            return refused("Rejected", "every node of a Cluster tells of its own keys only")
          if (prefixes.length === 0) return refused("Rejected", "there is no prefix: an empty one stands for every key")
          const tracker = Subscriber.make(apart(), { ...listening, greeting: { ...greeting, track: prefixes } })
          trackers.add(tracker)
          return Effect.zipRight(
            Scope.addFinalizer(
              scope,
              Effect.sync(() => {
                trackers.delete(tracker)
                tracker.close()
              })
            ),
            tracker.track(handler)
          )
        })
      )

    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        router.close()
        pool.close()
        subscriber.close()
        for (const tracker of trackers) tracker.close()
        trackers.clear()
        watchers.clear()
      })
    )
    if (behaviour.connect !== "lazy") yield* connected(core, router, progress)

    const service: Model.Service = {
      send: shared.send,
      sendBuffer: shared.sendBuffer,
      sendMany: shared.sendMany,
      sendManyBuffer: shared.sendManyBuffer,
      run: shared.run,
      runBuffer: shared.runBuffer,
      transaction: shared.transaction,
      isolated: (options) => Effect.flatMap(router.place(options?.key), pool.lend),
      listen: subscriber.listen,
      track,
      nodes: router.nodes(shared),
      topology: router.topology,
      state: Effect.sync(router.state),
      changes: Stream.asyncPush<Model.ConnectionState>(
        (emit) =>
          Effect.acquireRelease(
            Effect.sync(() => {
              const watcher = (state: Model.ConnectionState): void => {
                emit.single(state)
                if (state === "closed") emit.end()
              }
              watcher(router.state())
              watchers.add(watcher)
              return watcher
            }),
            (watcher) => Effect.sync(() => watchers.delete(watcher))
          ),
        { bufferSize: "unbounded" }
      ),
      stats: Effect.sync(() => {
        const { total, idle } = pool.size()
        const { unanswered: _, ...plain } = counts
        return {
          state: router.state(),
          ...plain,
          isolated: total,
          isolatedIdle: idle,
          listeners: subscriber.listeners() + trackers.size
        }
      })
    }
    return service
  })

/**
 * Waits for the first connection, and fails with what keeps it from being had. A Cluster need not be whole: some of its
 * nodes are enough, as they are for a client that runs.
 */
const connected = (core: Core, router: Router, progress: Set<() => void>): Effect.Effect<void, RedisError> =>
  Effect.async((resume) => {
    const stop = (): void => {
      clearTimeout(late)
      clearTimeout(timer)
      progress.delete(look)
    }
    const notReady = () =>
      failure({
        reason: "Timeout",
        outcome: "not-sent",
        method: "connect",
        description: `the server was not ready within ${core.connectTimeout} ms`
      })
    const decide = (isLate: boolean): void => {
      const result = router.begun(isLate)
      if (result === undefined) return
      stop()
      resume(Either.mapLeft(result, (problem) => problem ?? notReady()))
    }
    let isLate = false
    const look = (): void => decide(isLate)
    const late = setTimeout(
      () => {
        isLate = true
        look()
      },
      Math.min(core.commandTimeout, core.connectTimeout)
    )
    // the server may accept and then not answer, or load its data for ever
    const timer = setTimeout(() => {
      stop()
      resume(notReady())
    }, core.connectTimeout)
    progress.add(look)
    router.connect()
    return Effect.sync(stop)
  })
