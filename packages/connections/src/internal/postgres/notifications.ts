/**
 * LISTEN as a stream, on a connection of its own that is made again when it is lost.
 */
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Chunk from "effect/Chunk"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { run } from "../sql/session.ts"
import type { PostgresSession } from "./session.ts"

export type Message =
  | {
      readonly _tag: "Notification"
      readonly channel: string
      readonly payload: string
      readonly processId: number
    }
  | { readonly _tag: "Listening"; readonly again: boolean }

export interface Options {
  readonly kind: string
  readonly name: string
  readonly connect: (made: (session: PostgresSession) => void) => Effect.Effect<void, ConnectionError>
  /** How often a connection that says nothing is asked whether it is still there. */
  readonly checkEvery: Duration.Duration
  readonly checkTimeout: Duration.Duration
}

/** The streams that have lost their connection and have no other yet. */
export interface Lost {
  readonly lost: number
  /** Why it was refused last; undefined where it was not yet. */
  readonly reason?: string
}

const high = 4_096

const quote = (channel: string): string => `"${channel.replace(/"/g, '""')}"`

export const make = Effect.fnUntraced(function* (options: Options) {
  const closing = yield* Deferred.make<void>()
  const open = new Set<PostgresSession>()
  const lost = new Map<object, ConnectionError | undefined>()
  yield* Effect.addFinalizer(() =>
    Effect.zipRight(
      Deferred.succeed(closing, undefined),
      Effect.suspend(() =>
        Effect.forEach([...open], (session) => session.end, { concurrency: "unbounded", discard: true })
      )
    )
  )
  const failure = (reason: "Closed" | "InvalidRequest" | "Unavailable", description: string) =>
    new ConnectionError({ reason, kind: options.kind, connection: options.name, method: "listen", description })

  const session: Effect.Effect<PostgresSession, ConnectionError, Scope.Scope> = Effect.uninterruptibleMask((restore) =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        let made: PostgresSession | undefined
        const connecting = options.connect((it) => {
          made = it
          open.add(it)
        })
        return Effect.matchCauseEffect(restore(connecting), {
          onSuccess: () =>
            made === undefined ? Effect.dieMessage("the driver connected to nothing") : Effect.succeed(made),
          onFailure: (cause) =>
            made === undefined ? Effect.failCause(cause) : Effect.zipRight(ended(made), Effect.failCause(cause))
        })
      }),
      (it) => ended(it)
    )
  )

  const ended = (it: PostgresSession) =>
    Effect.ensuring(
      it.end,
      Effect.sync(() => open.delete(it))
    )

  const listen = (channels: ReadonlyArray<string>): Stream.Stream<Message, ConnectionError> =>
    Stream.unwrapScoped(
      Effect.gen(function* () {
        if (channels.length === 0) return yield* failure("InvalidRequest", "name the channels to listen to")
        for (const channel of channels) {
          const bytes = Buffer.byteLength(channel)
          if (bytes === 0 || bytes > 63 || channel.includes("\0")) {
            return yield* failure("InvalidRequest", "the name of a channel has 1 to 63 bytes")
          }
        }
        let buffer: Array<Message> = []
        let over: ConnectionError | undefined
        let wake: (() => void) | undefined
        let current: PostgresSession | undefined
        let pauses = 0
        const push = (message: Message): void => {
          buffer.push(message)
          if (buffer.length >= high) {
            pauses++
            current?.pause()
          }
          wake?.()
        }
        let again = false
        const me = {}
        yield* Effect.addFinalizer(() => Effect.sync(() => lost.delete(me)))
        const serve = Effect.scoped(
          Effect.gen(function* () {
            const it = yield* session
            const gone = Deferred.unsafeMake<void>(FiberId.none)
            it.onGone(() => Deferred.unsafeDone(gone, Exit.void))
            it.onNotification((message) => push({ _tag: "Notification", ...message }))
            current = it
            const sql = channels.map((channel) => `LISTEN ${quote(channel)}`).join(";")
            yield* run(it, { sql, params: [], rows: "array" })
            lost.delete(me)
            push({ _tag: "Listening", again })
            again = true
            // While the consumer is behind nothing is read, and no answer comes: that time does not count.
            const patience: Effect.Effect<boolean> = Effect.suspend(() => {
              const before = pauses
              return Effect.flatMap(Effect.sleep(options.checkTimeout), () =>
                buffer.length >= high || pauses !== before ? patience : Effect.succeed(false)
              )
            })
            const answers = Effect.map(
              Effect.either(run(it, { sql: "select 1", params: [], rows: "array", final: true })),
              Either.isRight
            )
            const checks: Effect.Effect<void> = Effect.sleep(options.checkEvery).pipe(
              Effect.zipRight(
                Effect.suspend(() =>
                  buffer.length >= high ? Effect.succeed(true) : Effect.raceFirst(answers, patience)
                )
              ),
              Effect.flatMap((alive) => (alive ? checks : Effect.void))
            )
            yield* Effect.raceFirst(Deferred.await(gone), checks)
          })
        )
        const forever = (delay: number): Effect.Effect<void, ConnectionError> =>
          Effect.matchEffect(Effect.timed(serve), {
            // One that does not last is asked for ever more rarely too.
            onSuccess: ([lasted]) => {
              lost.set(me, undefined)
              return Duration.toMillis(lasted) >= 1_000
                ? forever(100)
                : Effect.zipRight(Effect.sleep(Duration.millis(delay)), forever(Math.min(10_000, delay * 2)))
            },
            onFailure: (error) => {
              // What could not be had at first is for the caller to know; what was lost is tried again.
              if (!again) return Effect.fail(error)
              lost.set(me, error)
              return Effect.zipRight(Effect.sleep(Duration.millis(delay)), forever(Math.min(10_000, delay * 2)))
            }
          })
        // A fiber that fails would be logged by the runtime.
        yield* Effect.raceFirst(
          Effect.either(forever(100)),
          Effect.as(Deferred.await(closing), Either.left(failure("Closed", "the connection was released")))
        ).pipe(
          Effect.flatten,
          Effect.catchAll((error) =>
            Effect.sync(() => {
              over = error
              wake?.()
            })
          ),
          Effect.forkScoped
        )
        const pull: Effect.Effect<Chunk.Chunk<Message>, ConnectionError> = Effect.suspend(() => {
          if (buffer.length > 0) {
            const messages = Chunk.unsafeFromArray(buffer)
            buffer = []
            current?.resume()
            return Effect.succeed(messages)
          }
          if (over !== undefined) return Effect.fail(over)
          return Effect.zipRight(
            Effect.async<void>((resume) => {
              if (buffer.length > 0 || over !== undefined) return resume(Effect.void)
              wake = () => {
                wake = undefined
                resume(Effect.void)
              }
              return undefined
            }),
            pull
          )
        })
        return Stream.repeatEffectChunk(pull)
      })
    )

  return {
    listen,
    /** What is lost now; undefined where all have their connections. */
    lost: (): Lost | undefined => {
      if (lost.size === 0) return undefined
      const error = [...lost.values()].find((error) => error !== undefined)
      return error === undefined ? { lost: lost.size } : { lost: lost.size, reason: error.reason }
    }
  }
})
