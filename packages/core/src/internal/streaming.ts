/**
 * The pipeline for streams: attempts are made until the first element is there; from then on the stream is the attempt's,
 * each further element within the idle timeout, and a failure is the caller's to see.
 */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Deadline from "../resilience/Deadline.ts"
import * as Timeout from "../resilience/Timeout.ts"
import * as pipeline from "./pipeline.ts"
import * as timed from "./timed.ts"

/** The stages of a stream; the attempt timeout is that of the first element. */
export interface Stages extends pipeline.Stages {
  /** The limit of the wait for each element after the first, in milliseconds. */
  readonly idle: number
}

/** What is told of a stream while it flows. */
export interface Observer extends Pick<pipeline.Observer, "onRetry" | "onHedge" | "onBudgetRefused"> {
  /** The first element is there. */
  readonly onFirst?: (() => void) | undefined
  /** Elements have passed. */
  readonly onElements?: ((count: number) => void) | undefined
  /** It failed after its first element. */
  readonly onBroken?: ((cause: Cause.Cause<unknown>) => void) | undefined
}

interface Opened<A, E, R> {
  readonly scope: Scope.CloseableScope
  readonly pull: Effect.Effect<Chunk.Chunk<A>, Option.Option<E>, R>
  /** None if the stream ended without an element. */
  readonly first: Option.Option<Chunk.Chunk<A>>
}

/** Opens the stream in a scope of its own and waits for its first element. */
const open = <A, E, R>(stream: Stream.Stream<A, E, R>, parent: Scope.Scope): Effect.Effect<Opened<A, E, R>, E, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Scope.fork(parent, parent.strategy), (scope) =>
      restore(
        Effect.flatMap(Scope.extend(Stream.toPull(stream), scope), (pull) => {
          const next: Effect.Effect<Option.Option<Chunk.Chunk<A>>, E, R> = Effect.matchEffect(pull, {
            onFailure: Option.match({
              onNone: () => Effect.succeed(Option.none<Chunk.Chunk<A>>()),
              onSome: (error) => Effect.fail(error)
            }),
            onSuccess: (chunk) => (Chunk.isEmpty(chunk) ? next : Effect.succeed(Option.some(chunk)))
          })
          return Effect.map(next, (first): Opened<A, E, R> => ({ scope, pull, first }))
        })
      ).pipe(Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause))))
    )
  )

/** A stream that came when another attempt had won already. */
const lost = Exit.interrupt(FiberId.none)

/** Runs the stream through the stages that are in force when it starts. */
export const run = <A, E, R>(
  current: () => Stages,
  stream: Stream.Stream<A, E, R>,
  observer?: Observer
): Stream.Stream<A, E | pipeline.Failure, R> =>
  Stream.unwrapScoped(
    Effect.gen(function* () {
      const stages = current()
      const scope = yield* Effect.scope
      const clock = yield* Effect.clock
      const inherited = yield* Deadline.Current
      // What attempts hold is let go when the stream ends, by whichever comes first.
      const held = new Map<Opened<A, E, R>, pipeline.Held>()
      const finish = (exit: Exit.Exit<unknown, unknown>): void => {
        for (const each of held.values()) each.finish(exit, clock.unsafeCurrentTimeMillis())
        held.clear()
      }
      // Before anything is held, so that no interruption comes in between. Whoever ends the stream early has got what
      // they wanted from a service that answered; whoever is interrupted says nothing of it.
      yield* Scope.addFinalizerExit(scope, (exit) =>
        Effect.sync(() => finish(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause) ? exit : Exit.void))
      )
      const opened = yield* pipeline.run(() => stages, open(stream, scope), {
        onRetry: observer?.onRetry,
        onHedge: observer?.onHedge,
        onBudgetRefused: observer?.onBudgetRefused,
        onHeld: (given, value) => held.set(value, given),
        discard: (value) => {
          held.get(value)?.finish(lost, clock.unsafeCurrentTimeMillis())
          held.delete(value)
          return Scope.close(value.scope, lost)
        }
      })
      if (Option.isNone(opened.first)) {
        finish(Exit.void)
        return Stream.empty
      }
      // A probe has shown what it should; the rest of the stream counts like any other call.
      held.get(opened)?.progressed(clock.unsafeCurrentTimeMillis())
      observer?.onFirst?.()
      observer?.onElements?.(Chunk.size(opened.first.value))
      const broken = (cause: Cause.Cause<unknown>): void => {
        finish(Exit.failCause(cause))
        observer?.onBroken?.(cause)
      }
      const rest = Stream.repeatEffectChunkOption(
        further(stages, opened, inherited).pipe(
          Effect.tap((chunk) => Effect.sync(() => observer?.onElements?.(Chunk.size(chunk)))),
          Effect.onError((cause) =>
            Effect.sync(() => {
              const error = Cause.failureOption(cause)
              if (Option.isSome(error) && Option.isNone(error.value)) return
              broken(Cause.flatMap(cause, Option.match({ onNone: () => Cause.empty, onSome: Cause.fail })))
            })
          )
        )
      )
      return Stream.concat(Stream.fromChunk(opened.first.value), rest)
    })
  )

/** After a timeout nobody waits for the finalizers of a stream that does not answer. */
const leave =
  <A, E, R>(opened: Opened<A, E, R>) =>
  (
    cause: Cause.Cause<Option.Option<E | Timeout.CallTimeout>>
  ): Effect.Effect<never, Option.Option<E | Timeout.CallTimeout>> => {
    const error = Option.flatten(Cause.failureOption(cause))
    return Option.isSome(error) && error.value instanceof Timeout.CallTimeout
      ? Effect.forkDaemon(Scope.close(opened.scope, Exit.void)).pipe(
          Effect.andThen(Effect.yieldNow()),
          Effect.andThen(Effect.failCause(cause))
        )
      : Effect.failCause(cause)
  }

/** The next elements, within the idle timeout and the caller's deadline. */
const further = <A, E, R>(
  stages: Stages,
  opened: Opened<A, E, R>,
  deadline: number
): Effect.Effect<Chunk.Chunk<A>, Option.Option<E | Timeout.CallTimeout>, R> => {
  if (stages.idle === Number.POSITIVE_INFINITY && deadline === Number.POSITIVE_INFINITY) return opened.pull
  const { name, idle, orphans } = stages
  return Effect.withFiberRuntime((fiber) => {
    const now = Context.get(fiber.currentDefaultServices, Clock.Clock).unsafeCurrentTimeMillis()
    const remaining = deadline - now
    const timeout = (): Option.Option<Timeout.CallTimeout> =>
      Option.some(
        idle <= remaining
          ? new Timeout.CallTimeout({ service: name, scope: "idle", limitMillis: idle })
          : new Timeout.CallTimeout({ service: name, scope: "total", limitMillis: Math.max(0, deadline - now) })
      )
    return remaining <= 0
      ? Effect.fail(timeout())
      : timed.run<
          Chunk.Chunk<A>,
          Option.Option<E>,
          R,
          Option.Option<Timeout.CallTimeout>,
          Option.Option<E | Timeout.CallTimeout>
        >(opened.pull, {
          millis: Math.min(idle, remaining),
          orphans,
          context: undefined,
          timeout,
          settled: () => {},
          failed: leave(opened)
        })
  })
}
