/**
 * Which calls chaos befalls, and what becomes of them.
 */
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import * as HashSet from "effect/HashSet"
import * as Inspectable from "effect/Inspectable"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"

/** What can be done to a call. */
export const kinds = ["fault", "latency", "outcome", "defect", "interrupt", "hang", "behaviour"] as const

export type Kind = (typeof kinds)[number]

/** Which keys are meant. */
export type Keys = ReadonlyArray<string> | ((key: string) => boolean)

/** Makes an error recognisable; `made`: it was made for this injection, so that it can be marked itself. */
export type Mark = <T extends object>(error: T, made?: boolean) => T

/** One thing that is done to some calls. */
export interface Injection {
  readonly kind: Kind
  readonly rate: number
  readonly keys: Keys | undefined
  /** Of a stream: after how many elements. */
  readonly afterElements: number
  /** Whether the call goes on afterwards. */
  readonly continues: boolean
  /** What happens; `mark` makes an error recognisable. */
  readonly effect: (mark: Mark) => Effect.Effect<unknown, unknown>
}

/** Something was done to a call. */
export interface Injected {
  readonly chaos: string
  readonly kind: Kind
  readonly key: string | undefined
}

export interface Settings {
  readonly name: string
  readonly enabled: boolean | Effect.Effect<boolean>
  readonly key: Effect.Effect<string | undefined>
  readonly keys: Keys | undefined
  readonly seed: number | string | undefined
  readonly injections: ReadonlyArray<Injection>
  readonly onInjected: ((event: Injected) => Effect.Effect<void>) | undefined
}

/** Answered by marked errors with the name of the chaos, also through what is wrapped around them. */
const marker = Symbol.for("@underlay/core/Chaos/injected")

/** Who interrupted a call where nobody did. */
const interruptor: FiberId.FiberId = FiberId.runtime(-1, 0)

/** Errors that have been injected twice, so that they are constants of somebody's. */
const constants = new WeakSet<object>()

/**
 * An error with an identity of its own that reads as the given one: a constant that the call itself may fail with must
 * not become recognisable by having been injected once.
 */
const individual = <T extends object>(error: T, chaos: string): T =>
  new Proxy(error, {
    get: (target, key) =>
      key === marker
        ? chaos
        : // Inspectors that are handed the proxy by the error's own method would ask it for ever.
          key === Inspectable.NodeInspectSymbol
          ? () => target
          : Reflect.get(target, key, target)
  })

/**
 * What was made for this injection is marked itself: it has to be in every way what a real failure is, with methods that
 * read private fields, for `structuredClone` and for those who ask whether it is an error.
 */
const marked = <T extends object>(error: T, chaos: string, made: boolean): T => {
  if (!made || constants.has(error) || !Object.isExtensible(error)) return individual(error, chaos)
  if (Object.hasOwn(error, marker)) {
    // It was not made for one injection only: from now on it is treated as what it is.
    constants.add(error)
    Reflect.deleteProperty(error, marker)
    return individual(error, chaos)
  }
  Object.defineProperty(error, marker, { value: chaos, configurable: true })
  return error
}

/** The causes of made-up answers that fail. */
const markedCause = <E>(cause: Cause.Cause<E>, mark: Mark): Cause.Cause<E> => {
  const each = <T>(error: T): T => (typeof error === "object" && error !== null ? mark(error) : error)
  return Cause.match(cause, {
    onEmpty: cause,
    onFail: (error): Cause.Cause<E> => Cause.fail(each(error)),
    onDie: (defect): Cause.Cause<E> => Cause.die(each(defect)),
    onInterrupt: (by): Cause.Cause<E> => Cause.interrupt(by),
    onSequential: (left, right): Cause.Cause<E> => Cause.sequential(left, right),
    onParallel: (left, right): Cause.Cause<E> => Cause.parallel(left, right)
  })
}

/** What fails is marked, with all that goes with it. */
export const marking = <A, E, R>(effect: Effect.Effect<A, E, R>, mark: Mark): Effect.Effect<A, E, R> =>
  Effect.catchAllCause(effect, (cause) => Effect.failCause(markedCause(cause, mark)))

const maxDepth = 8

/** The name of the chaos that the error, or what caused it, comes from. */
export const injectedBy = (error: unknown): string | undefined => {
  let current = error
  for (let depth = 0; depth < maxDepth && typeof current === "object" && current !== null; depth++) {
    const found = (current as { readonly [marker]?: unknown })[marker]
    if (typeof found === "string") return found
    current = (current as { readonly cause?: unknown }).cause
  }
  return undefined
}

/** Whether the error, the defect or the cause comes from chaos. */
export const isInjected = (u: unknown): boolean =>
  Cause.isCause(u)
    ? Chunk.some(Cause.failures(u), isInjected) ||
      Chunk.some(Cause.defects(u), isInjected) ||
      HashSet.has(Cause.interruptors(u), interruptor)
    : injectedBy(u) !== undefined

/** What an injected interruption is. */
export const interruption: Effect.Effect<never> = Effect.failCause(Cause.interrupt(interruptor))

const matches = (keys: Keys | undefined, key: string | undefined): boolean =>
  keys === undefined || (key !== undefined && (typeof keys === "function" ? keys(key) : keys.includes(key)))

/** What is done to one call: in order, the last one possibly instead of it. */
interface Hit {
  readonly injection: Injection
  readonly happen: Effect.Effect<unknown, unknown>
}

const none: ReadonlyArray<Hit> = []

export class ChaosMachine {
  readonly injected: Record<Kind, number> = {
    fault: 0,
    latency: 0,
    outcome: 0,
    defect: 0,
    interrupt: 0,
    hang: 0,
    behaviour: 0
  }
  /** Calls that came by while it was on. */
  calls = 0
  enabled: boolean | Effect.Effect<boolean>
  private settings: Settings
  private random: Random.Random | undefined

  constructor(settings: Settings) {
    this.settings = settings
    this.enabled = settings.enabled
    this.random = settings.seed === undefined ? undefined : Random.make(settings.seed)
  }

  /** Whether it is certain that nothing is done to anything now. */
  get off(): boolean {
    return this.enabled === false || this.settings.injections.length === 0
  }

  reload(settings: Settings): void {
    // A seed that stays goes on where it was.
    if (settings.seed !== this.settings.seed) {
      this.random = settings.seed === undefined ? undefined : Random.make(settings.seed)
    }
    this.settings = settings
    this.enabled = settings.enabled
  }

  apply<A, E, R>(effect: Effect.Effect<A, E, R>, key: string | undefined): Effect.Effect<A, E, R> {
    return Effect.suspend(() =>
      this.off
        ? effect
        : Effect.flatMap(
            this.hits(key),
            (hits) =>
              // What the injections add to the types is for the one who calls this to say.
              hits.reduceRight<Effect.Effect<unknown, unknown, R>>(
                (result, { happen, injection }) => (injection.continues ? Effect.zipRight(happen, result) : happen),
                effect
              ) as Effect.Effect<A, E, R>
          )
    )
  }

  applyStream<A, E, R>(stream: Stream.Stream<A, E, R>, key: string | undefined): Stream.Stream<A, E, R> {
    return Stream.suspend(() =>
      this.off
        ? stream
        : Stream.unwrap(Effect.map(this.hits(key), (hits) => disturbed(stream, hits) as Stream.Stream<A, E, R>))
    )
  }

  /** Draws lots for one call. */
  private hits(given: string | undefined): Effect.Effect<ReadonlyArray<Hit>> {
    const { enabled, settings } = this
    const draw = Effect.suspend(() => {
      this.calls++
      return Effect.flatMap(given === undefined ? settings.key : Effect.succeed(given), (key) =>
        matches(settings.keys, key) ? this.draw(settings, key) : Effect.succeed(none)
      )
    })
    return typeof enabled === "boolean" ? draw : Effect.flatMap(enabled, (on) => (on ? draw : Effect.succeed(none)))
  }

  private draw(settings: Settings, key: string | undefined): Effect.Effect<ReadonlyArray<Hit>> {
    const { random } = this
    const happen = (injection: Injection) => this.happen(settings, injection, key)
    const drawn = Effect.gen(function* () {
      const hits: Array<Hit> = []
      for (const injection of settings.injections) {
        if (!matches(injection.keys, key) || (yield* Random.next) >= injection.rate) continue
        hits.push({ injection, happen: happen(injection) })
        // What comes after the end of the call cannot happen; a stream may still come to something sooner.
        if (!injection.continues && injection.afterElements === 0) break
      }
      return hits
    })
    return random === undefined ? drawn : Effect.withRandom(drawn, random)
  }

  private happen(settings: Settings, injection: Injection, key: string | undefined): Effect.Effect<unknown, unknown> {
    const { name: chaos, onInjected } = settings
    const { kind } = injection
    const happening = Effect.suspend(() => {
      this.injected[kind]++
      const effect = injection.effect((error, made = false) => marked(error, chaos, made))
      return onInjected === undefined ? effect : Effect.zipRight(onInjected({ chaos, kind, key }), effect)
    })
    return this.random === undefined ? happening : Effect.withRandom(happening, this.random)
  }
}

/** The stream with what happens to it, each at its place. */
const disturbed = <A, E, R>(
  stream: Stream.Stream<A, E, R>,
  hits: ReadonlyArray<Hit>
): Stream.Stream<unknown, unknown, R> => {
  // Stable, so that what happens at the same place keeps its order.
  const later = hits
    .filter((hit) => hit.injection.afterElements > 0)
    .sort((left, right) => left.injection.afterElements - right.injection.afterElements)
  let result: Stream.Stream<unknown, unknown, R> =
    later.length === 0 ? stream : Stream.pipeThroughChannelOrFail(stream, interrupted(later, 0, 0, Chunk.empty()))
  for (const { happen, injection } of hits.filter((hit) => hit.injection.afterElements === 0).reverse()) {
    result = injection.continues ? Stream.concat(Stream.execute(happen), result) : Stream.fromEffect(happen)
  }
  return result
}

/** Passes elements on up to the place of the next hit, which happens before the one after it is asked for. */
const interrupted = <A, E>(
  hits: ReadonlyArray<Hit>,
  index: number,
  seen: number,
  held: Chunk.Chunk<A>
): Channel.Channel<Chunk.Chunk<unknown>, Chunk.Chunk<A>, unknown, E, unknown, unknown> => {
  const hit = hits[index]
  if (hit === undefined) return Channel.zipRight(Channel.write(held), Channel.identity<Chunk.Chunk<A>, E, unknown>())
  const left = hit.injection.afterElements - seen
  if (left <= 0) {
    return hit.injection.continues
      ? Channel.flatMap(Channel.fromEffect(hit.happen), () => interrupted<A, E>(hits, index + 1, seen, held))
      : Channel.flatMap(Channel.fromEffect(hit.happen), (value) => Channel.write(Chunk.of(value)))
  }
  if (Chunk.size(held) >= left) {
    return Channel.flatMap(Channel.write(Chunk.take(held, left)), () =>
      interrupted<A, E>(hits, index, seen + left, Chunk.drop(held, left))
    )
  }
  const next: Channel.Channel<
    Chunk.Chunk<unknown>,
    Chunk.Chunk<A>,
    unknown,
    E,
    unknown,
    unknown
  > = Channel.readWithCause({
    onInput: (input: Chunk.Chunk<A>) => interrupted<A, E>(hits, index, seen + Chunk.size(held), input),
    onFailure: (cause: Cause.Cause<E>) => Channel.failCause(cause),
    onDone: (done: unknown) => Channel.succeed(done)
  })
  return Chunk.isEmpty(held) ? next : Channel.flatMap(Channel.write(held), () => next)
}
