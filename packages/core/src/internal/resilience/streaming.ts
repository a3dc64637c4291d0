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
import * as Deadline from "../../resilience/Deadline.ts"
import * as Timeout from "../../resilience/Timeout.ts"
import * as pipeline from "./pipeline.ts"
import * as timed from "./timed.ts"

/** The stages of a stream; the attempt timeout is that of the first element. */
export interface Stages extends pipeline.Stages {
  /** The limit of the wait for each element after the first, in milliseconds. */
  readonly idle: number
}

/** What is told of a stream while it flows. */
export interface Observer extends Pick<pipeline.Observer, "onRetry" | "onHedge" | "onBudgetRefused" | "counted"> {
  /** The first element is there. */
  readonly onFirst?: (() => void) | undefined
  /** Elements have passed. */
  readonly onElements?: ((count: number) => void) | undefined
  /** What the stream runs in, made of what its attempt does. */
  readonly inside?: (<R>(context: Context.Context<R>) => Context.Context<R>) | undefined
  /** It failed after its first element. */
  readonly onBroken?: ((cause: Cause.Cause<unknown>) => void) | undefined
}

/** What an attempt has opened. */
class Opened<A, E, R> {
  readonly scope: Scope.CloseableScope
  readonly pull: Effect.Effect<Chunk.Chunk<A>, Option.Option<E>, R>
  /** None if the stream ended without an element. */
  readonly first: Option.Option<Chunk.Chunk<A>>
  /** What it runs in; undefined for what its reader does. */
  readonly context: Context.Context<R> | undefined
  /** Another attempt has won: nobody reads it. */
  lost = false
  private held: pipeline.Held | undefined = undefined
  /** Pulls and finalizers that go on, though nobody may wait for them. */
  private busy = 0
  private over = false

  constructor(
    scope: Scope.CloseableScope,
    pull: Effect.Effect<Chunk.Chunk<A>, Option.Option<E>, R>,
    first: Option.Option<Chunk.Chunk<A>>,
    context: Context.Context<R> | undefined
  ) {
    this.scope = scope
    this.pull = pull
    this.first = first
    this.context = context
  }

  hold(held: pipeline.Held, now: number): void {
    this.held = held
    if (this.lost) held.finish(lost, now)
    if (this.over && this.busy === 0) held.leave(now)
  }

  progressed(now: number): void {
    this.held?.progressed(now)
  }

  /** How it went; what it holds besides is let go when nothing of it goes on. */
  finish(exit: Exit.Exit<unknown, unknown>, now: number): void {
    this.held?.finish(exit, now)
  }

  begins(): void {
    this.busy++
  }

  ends(now: number): void {
    this.busy--
    if (this.over && this.busy === 0) this.held?.leave(now)
  }

  end(now: number): void {
    this.over = true
    if (this.busy === 0) this.held?.leave(now)
  }
}

/** A stream that came when another attempt had won already. */
const lost = Exit.interrupt(FiberId.none)

/** One run of a stream through the pipeline, and all that its attempts have opened. */
class Flow<A, E, R> {
  private readonly opened = new Set<Opened<A, E, R>>()
  private decided = false
  private readonly clock: Clock.Clock

  constructor(clock: Clock.Clock) {
    this.clock = clock
  }

  now(): number {
    return this.clock.unsafeCurrentTimeMillis()
  }

  /**
   * Opens the stream in a scope of its own and waits for its first element. What is open is known here before the attempt
   * can be interrupted again: the loser of a race may be, between its success and the one who would hear of it.
   */
  open(
    stream: Stream.Stream<A, E, R>,
    parent: Scope.Scope,
    inside: Observer["inside"]
  ): Effect.Effect<Opened<A, E, R>, E, R> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Scope.fork(parent, parent.strategy), (scope) =>
        Effect.matchCauseEffect(restore(firstOf(stream, scope, inside)), {
          onFailure: (cause) => Effect.zipRight(Scope.close(scope, Exit.failCause(cause)), Effect.failCause(cause)),
          onSuccess: (opened) => {
            if (this.decided) return Effect.as(this.lose(opened), opened)
            this.opened.add(opened)
            return Effect.succeed(opened)
          }
        })
      )
    )
  }

  /** The winner is known; nobody waits for the others. */
  decide(winner: Opened<A, E, R>): Effect.Effect<void> {
    this.decided = true
    if (this.opened.size === 1) return Effect.void
    const others = [...this.opened].filter((each) => each !== winner)
    return Effect.forEach(others, (each) => Effect.forkDaemon(this.lose(each)), { discard: true })
  }

  /** Closes what nobody reads. */
  private lose(opened: Opened<A, E, R>): Effect.Effect<void> {
    return Effect.suspend(() => {
      opened.lost = true
      this.opened.delete(opened)
      opened.finish(lost, this.now())
      opened.begins()
      opened.end(this.now())
      return Effect.ensuring(
        Scope.close(opened.scope, lost),
        Effect.sync(() => opened.ends(this.now()))
      )
    })
  }

  /** The scope that all was opened in is closed. */
  end(exit: Exit.Exit<unknown, unknown>): void {
    this.decided = true
    for (const each of this.opened) {
      each.finish(exit, this.now())
      each.end(this.now())
    }
    this.opened.clear()
  }
}

const firstOf = <A, E, R>(
  stream: Stream.Stream<A, E, R>,
  scope: Scope.CloseableScope,
  inside: Observer["inside"]
): Effect.Effect<Opened<A, E, R>, E, R> => {
  const begin = (context: Context.Context<R> | undefined): Effect.Effect<Opened<A, E, R>, E, R> =>
    Effect.flatMap(Scope.extend(Stream.toPull(stream), scope), (pull) => {
      const next: Effect.Effect<Option.Option<Chunk.Chunk<A>>, E, R> = Effect.matchEffect(pull, {
        onFailure: Option.match({
          onNone: () => Effect.succeed(Option.none<Chunk.Chunk<A>>()),
          onSome: (error) => Effect.fail(error)
        }),
        onSuccess: (chunk) => (Chunk.isEmpty(chunk) ? next : Effect.succeed(Option.some(chunk)))
      })
      return Effect.map(next, (first) => new Opened(scope, pull, first, context))
    })
  if (inside === undefined) return begin(undefined)
  // Given once, and to each pull by its fiber: a stream that gives it to itself does so at every step.
  return Effect.flatMap(Effect.context<R>(), (outer) => {
    const context = inside(outer)
    return Effect.mapInputContext(begin(context), () => context)
  })
}

/** What gives the next elements; fails with none at the end. */
export type Pull<A, E, R> = Effect.Effect<Chunk.Chunk<A>, Option.Option<E>, R>

/** Runs the stream through the stages that are in force when it starts. */
export const run = <A, E, R>(
  current: () => Stages,
  stream: Stream.Stream<A, E, R>,
  observer?: Observer
): Stream.Stream<A, E | pipeline.Failure, R> =>
  Stream.unwrapScoped(Effect.map(open(current, stream, observer), Stream.repeatEffectChunkOption))

/**
 * The same, opened in the scope at hand, as what pulls its elements: a stream within a stream costs more for each of its
 * chunks than most that is done with them.
 */
export const open = <A, E, R>(
  current: () => Stages,
  stream: Stream.Stream<A, E, R>,
  observer?: Observer
): Effect.Effect<Pull<A, E | pipeline.Failure, R>, E | pipeline.Failure, R | Scope.Scope> =>
  Effect.gen(function* () {
    const given = current()
    // Chaos befalls the stream, which an attempt only begins.
    const stages: Stages = given.chaos === undefined ? given : { ...given, chaos: undefined }
    const source = given.chaos === undefined ? stream : given.chaos.machine.applyStream(stream, undefined)
    const scope = yield* Effect.scope
    const inherited = yield* Deadline.current
    const flow = new Flow<A, E, R>(yield* Effect.clock)
    // Before anything is held, so that no interruption comes in between; and so after all that is opened is closed.
    // Whoever ends the stream early has got what they wanted from a service that answered; whoever is interrupted says
    // nothing of it.
    const started = flow.now()
    let failed: Cause.Cause<unknown> | undefined
    yield* Scope.addFinalizerExit(scope, (exit) =>
      Effect.sync(() => {
        const interrupted = Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)
        flow.end(interrupted ? exit : Exit.void)
        if (observer?.counted !== true) {
          count(stages, failed ?? (interrupted ? exit.cause : undefined), flow.now() - started)
        }
      })
    )
    const opened = yield* pipeline
      .run(() => stages, flow.open(source, scope, observer?.inside), {
        onRetry: observer?.onRetry,
        onHedge: observer?.onHedge,
        onBudgetRefused: observer?.onBudgetRefused,
        counted: true,
        onHeld: (held, value) => value.hold(held, flow.now())
      })
      .pipe(
        Effect.tapErrorCause((cause) =>
          Effect.sync(() => {
            failed = cause
          })
        )
      )
    yield* flow.decide(opened)
    if (Option.isNone(opened.first)) {
      opened.finish(Exit.void, flow.now())
      return Effect.fail(Option.none())
    }
    // A probe has shown what it should; the rest of the stream counts like any other call.
    opened.progressed(flow.now())
    observer?.onFirst?.()
    const broken = (cause: Cause.Cause<unknown>): void => {
      failed = cause
      opened.finish(Exit.failCause(cause), flow.now())
      observer?.onBroken?.(cause)
    }
    const passed = (chunk: Chunk.Chunk<A>): Chunk.Chunk<A> => {
      observer?.onElements?.(Chunk.size(chunk))
      return chunk
    }
    const rest = Effect.onError(Effect.map(further(stages, opened, inherited, flow), passed), (cause) =>
      Effect.sync(() => {
        const error = Cause.failureOption(cause)
        if (Option.isSome(error) && Option.isNone(error.value)) return
        broken(Cause.flatMap(cause, Option.match({ onNone: () => Cause.empty, onSome: Cause.fail })))
      })
    )
    let first: Chunk.Chunk<A> | undefined = opened.first.value
    return Effect.suspend(() => {
      if (first === undefined) return rest
      const chunk = first
      first = undefined
      return Effect.succeed(passed(chunk))
    })
  })

/** A stream is one call: as long as it lasts, and ended as it ended. */
const count = (stages: Stages, cause: Cause.Cause<unknown> | undefined, millis: number): void =>
  stages.metrics?.call(
    cause === undefined ? "success" : pipeline.outcomeOf(cause, Cause.failureOption(cause), stages),
    Math.max(0, millis)
  )

/** After a timeout nobody waits for the finalizers of a stream that does not answer. */
const leave =
  <A, E, R>(opened: Opened<A, E, R>, flow: Flow<A, E, R>) =>
  (
    cause: Cause.Cause<Option.Option<E | Timeout.CallTimeout>>
  ): Effect.Effect<never, Option.Option<E | Timeout.CallTimeout>> => {
    const error = Option.flatten(Cause.failureOption(cause))
    if (!(Option.isSome(error) && error.value instanceof Timeout.CallTimeout)) return Effect.failCause(cause)
    opened.begins()
    return Effect.forkDaemon(
      Effect.ensuring(
        Scope.close(opened.scope, Exit.void),
        Effect.sync(() => opened.ends(flow.now()))
      )
    ).pipe(Effect.andThen(Effect.yieldNow()), Effect.andThen(Effect.failCause(cause)))
  }

/** The next elements, within the idle timeout and the caller's deadline. */
const further = <A, E, R>(
  stages: Stages,
  opened: Opened<A, E, R>,
  deadline: number,
  flow: Flow<A, E, R>
): Effect.Effect<Chunk.Chunk<A>, Option.Option<E | Timeout.CallTimeout>, R> => {
  if (stages.idle === Number.POSITIVE_INFINITY && deadline === Number.POSITIVE_INFINITY) {
    const { context } = opened
    return context === undefined ? opened.pull : Effect.mapInputContext(opened.pull, () => context)
  }
  const { name, idle, orphans } = stages
  return Effect.withFiberRuntime((fiber) => {
    const now = Context.get(fiber.currentDefaultServices, Clock.Clock).unsafeCurrentTimeMillis()
    const remaining = deadline - now
    const timeout = (): Option.Option<Timeout.CallTimeout> => {
      const error =
        idle <= remaining
          ? new Timeout.CallTimeout({ service: name, scope: "idle", limitMillis: idle })
          : new Timeout.CallTimeout({ service: name, scope: "total", limitMillis: Math.max(0, deadline - now) })
      stages.metrics?.timedOut(error.scope)
      return Option.some(error)
    }
    if (remaining <= 0) return Effect.fail(timeout())
    return Effect.uninterruptibleMask((restore) => {
      opened.begins()
      return timed.masked<
        Chunk.Chunk<A>,
        Option.Option<E>,
        R,
        Option.Option<Timeout.CallTimeout>,
        Option.Option<E | Timeout.CallTimeout>
      >(restore, opened.pull, {
        millis: Math.min(idle, remaining),
        orphans,
        context: opened.context,
        timeout,
        settled: () => {},
        ended: () => opened.ends(flow.now()),
        failed: leave(opened, flow)
      })
    })
  })
}
