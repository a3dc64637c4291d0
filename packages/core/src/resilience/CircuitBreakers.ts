/**
 * Circuit breakers by key (a host, a tenant, a model), made when first asked for and bounded in number.
 *
 * Beyond the capacity the least recently used ones that are closed go first. One that is open, half-open, forced or has
 * calls under way is never let go of; while there are only such ones the registry grows, and it shrinks as soon as it can:
 * to refuse the calls of a healthy key because others are down would make the breakers the cause of an outage. So that
 * keys which failed once and are never asked for again do not add up, one whose open time ended `forgetAfter` ago without
 * a call since counts as closed. Every operation takes the same time however many there are, and there is no timer.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type * as machine from "../internal/resilience/breaker.ts"
import * as CircuitBreaker from "./CircuitBreaker.ts"

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** What they guard; named in `CircuitOpen`, without the key, which may be somebody's name. */
  readonly name: string
  /** How many are kept. 100,000. */
  readonly capacity?: number | undefined
  /** The settings of each. */
  readonly breaker?: Omit<CircuitBreaker.Options, "name"> | undefined
  /** What the breaker of a key is named in `CircuitOpen`, where keys are no secret. */
  readonly nameOf?: ((key: string) => string) | undefined
  /** How long one that is not closed is kept after its open time, if nobody calls. 1 hour; false for ever. */
  readonly forgetAfter?: Duration.DurationInput | false | undefined
}

/**
 * A change of state of the breaker of that key.
 *
 * @since 0.1.0
 * @category models
 */
export interface Change extends CircuitBreaker.Change {
  readonly key: string
}

/**
 * How many there are in which state.
 *
 * @since 0.1.0
 * @category models
 */
export interface States {
  readonly closed: number
  readonly open: number
  readonly halfOpen: number
}

/**
 * `evicted`: since the registry was made.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly size: number
  readonly capacity: number
  readonly evicted: number
}

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("@underlay/core/CircuitBreakers")

/**
 * @since 0.1.0
 * @category models
 */
export interface CircuitBreakers {
  readonly [TypeId]: typeof TypeId
  readonly name: string
  /**
   * The breaker of the key, made if there is none. Who keeps it for long keeps it alive, not in the registry: after it was
   * let go of it comes back with its next call, unless the key has another one by then.
   */
  get(key: string): Effect.Effect<CircuitBreaker.CircuitBreaker>
  /** The breaker of the key if there is one. It does not count as a use. */
  peek(key: string): Effect.Effect<Option.Option<CircuitBreaker.CircuitBreaker>>
  /** Runs the effect through the breaker of the key. */
  run<A, E, R>(key: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitBreaker.CircuitOpen, R>
  /** Lets go of the breaker of the key, whatever its state; whether there was one. Its calls end as ever. */
  remove(key: string): Effect.Effect<boolean>
  readonly size: Effect.Effect<number>
  readonly stats: Effect.Effect<Stats>
  readonly states: Effect.Effect<States>
  /** Each key with its snapshot, taken when it is its turn. None of it counts as a use. */
  readonly snapshots: Stream.Stream<readonly [key: string, snapshot: CircuitBreaker.Snapshot]>
  /** Changes of state of all of them from now on. Slow readers lose the oldest beyond 64. */
  readonly changes: Stream.Stream<Change>
  /** Puts a snapshot into the breaker of the key, as `CircuitBreaker.restore` does. */
  restore(key: string, snapshot: unknown): Effect.Effect<void, CircuitBreaker.SnapshotInvalid>
  /** Other settings for all, as `CircuitBreaker.reload` does. This alone takes longer the more there are. */
  reload(options: Omit<CircuitBreaker.Options, "name">): Effect.Effect<void>
  /** @internal What shared control says, by name: `name` for all, `name/key` for one. */
  control(overrides: ReadonlyMap<string, CircuitBreaker.Override>, now: number): void
}

/** @internal What is wrong with the settings, in words that say what to write instead. */
export const problems = (options: Options): ReadonlyArray<string> => {
  const found = [...CircuitBreaker.problems(options.breaker ?? {})]
  const { capacity, forgetAfter } = options
  if (capacity !== undefined && !(Number.isInteger(capacity) && capacity >= 1)) {
    found.push(`breakers.capacity is ${capacity}: give a whole number of 1 or more`)
  }
  if (forgetAfter !== undefined && forgetAfter !== false && !(Duration.toMillis(forgetAfter) > 0)) {
    found.push("breakers.forgetAfter is not positive: give how long an unused key is kept, or false for ever")
  }
  return found
}

/**
 * Makes an empty registry. Settings that cannot work are defects that say what to write instead.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<CircuitBreakers> =>
  Effect.suspend(() => {
    const wrong = problems(options)
    return wrong.length === 0
      ? Effect.sync(() => new Registry(options))
      : Effect.dieMessage(`CircuitBreakers "${options.name}": ${wrong.join("; ")}`)
  })

/**
 * The class of a tag for one registry, with a layer that makes it:
 * `class Hosts extends CircuitBreakers.tag("app/Hosts", { name: "hosts" })<Hosts>() {}`.
 *
 * @since 0.1.0
 * @category tags
 */
export const tag =
  <const Id extends string>(id: Id, options: Options) =>
  <Self>() => {
    const Base = Context.Tag(id)<Self, CircuitBreakers>()
    return Object.assign(Base, { layer: Layer.effect(Base, make(options)) })
  }

/**
 * Whether it is a registry of breakers.
 *
 * @since 0.1.0
 * @category predicates
 */
export const isCircuitBreakers = (u: unknown): u is CircuitBreakers =>
  typeof u === "object" && u !== null && TypeId in u

/** A breaker with its place in one of the lists. */
class Entry extends CircuitBreaker.Handle implements machine.Owner {
  readonly key: string
  /** Whether it is in the registry, may come back, or must not. */
  kept: "in" | "evicted" | "removed" = "in"
  list: List | undefined = undefined
  previous: Entry | undefined = undefined
  next: Entry | undefined = undefined
  private readonly registry: Registry

  constructor(registry: Registry, key: string, name: string, settings: CircuitBreaker.Settings) {
    super(name, settings)
    this.key = key
    this.registry = registry
    this.machine.owner = this
  }

  get away(): boolean {
    return this.kept !== "in"
  }

  called(now: number): void {
    this.registry.recall(this, now)
  }

  placed(): void {
    if (this.kept === "in") this.registry.place(this)
  }

  changed(change: CircuitBreaker.Change): void {
    if (this.kept === "in") this.registry.tell(this.key, change)
  }
}

/** Entries in the order of their last use; each in one list at most. */
class List {
  first: Entry | undefined = undefined
  private last: Entry | undefined = undefined

  /** Puts it behind all others, from whichever list it is in. */
  add(entry: Entry): void {
    entry.list?.remove(entry)
    entry.list = this
    entry.previous = this.last
    if (this.last === undefined) this.first = entry
    else this.last.next = entry
    this.last = entry
  }

  remove(entry: Entry): void {
    if (entry.previous === undefined) this.first = entry.next
    else entry.previous.next = entry.next
    if (entry.next === undefined) this.last = entry.previous
    else entry.next.previous = entry.previous
    entry.previous = undefined
    entry.next = undefined
    entry.list = undefined
  }
}

/** How many are let go of at once, and how many of those that are not closed are looked at to find one that may go. */
const steps = 4

const noOverrides: ReadonlyMap<string, CircuitBreaker.Override> = new Map()

class Registry implements CircuitBreakers {
  readonly name: string
  private readonly capacity: number
  private readonly forgetAfter: number
  private readonly nameOf: ((key: string) => string) | undefined
  private settings: CircuitBreaker.Settings
  private readonly entries = new Map<string, Entry>()
  /** Closed and without calls. Those with calls under way and forced ones are in no list. */
  private readonly idle = new List()
  /** Open, half-open or ramping up, without calls. */
  private readonly troubled = new List()
  private readonly listeners = new Set<(change: Change) => void>()
  private overrides = noOverrides
  private evicted = 0

  constructor(options: Options) {
    this.name = options.name
    this.capacity = options.capacity ?? 100_000
    this.forgetAfter =
      options.forgetAfter === false ? Number.POSITIVE_INFINITY : Duration.toMillis(options.forgetAfter ?? "1 hour")
    this.nameOf = options.nameOf
    this.settings = CircuitBreaker.compile(options.breaker ?? {})
  }

  get [TypeId](): typeof TypeId {
    return TypeId
  }

  get(key: string): Effect.Effect<CircuitBreaker.CircuitBreaker> {
    return Effect.map(Clock.currentTimeMillis, (now) => this.entry(key, now))
  }

  peek(key: string): Effect.Effect<Option.Option<CircuitBreaker.CircuitBreaker>> {
    return Effect.sync(() => Option.fromNullable(this.entries.get(key)))
  }

  run<A, E, R>(key: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitBreaker.CircuitOpen, R> {
    return Effect.withFiberRuntime((fiber) =>
      this.entry(key, Context.get(fiber.currentDefaultServices, Clock.Clock).unsafeCurrentTimeMillis()).run(effect)
    )
  }

  remove(key: string): Effect.Effect<boolean> {
    return Effect.sync(() => {
      const entry = this.entries.get(key)
      if (entry === undefined) return false
      this.leave(entry, "removed")
      return true
    })
  }

  get size(): Effect.Effect<number> {
    return Effect.sync(() => this.entries.size)
  }

  get stats(): Effect.Effect<Stats> {
    return Effect.sync(() => ({ size: this.entries.size, capacity: this.capacity, evicted: this.evicted }))
  }

  get states(): Effect.Effect<States> {
    return Effect.map(Clock.currentTimeMillis, (now) => {
      let closed = 0
      let open = 0
      let halfOpen = 0
      for (const entry of this.entries.values()) {
        const state = entry.machine.state(now)
        if (state === "closed") closed++
        else if (state === "open") open++
        else halfOpen++
      }
      return { closed, open, halfOpen }
    })
  }

  get snapshots(): Stream.Stream<readonly [key: string, snapshot: CircuitBreaker.Snapshot]> {
    return Stream.unwrap(
      Effect.map(Effect.clock, (clock) =>
        Stream.map(
          Stream.fromIterable(this.entries.values()),
          (entry) => [entry.key, entry.machine.snapshot(clock.unsafeCurrentTimeMillis())] as const
        )
      )
    )
  }

  get changes(): Stream.Stream<Change> {
    return CircuitBreaker.changesOf(() => this.listeners)
  }

  restore(key: string, snapshot: unknown): Effect.Effect<void, CircuitBreaker.SnapshotInvalid> {
    return Effect.flatMap(CircuitBreaker.decodeSnapshot(this.name, snapshot), (found) =>
      Effect.map(Clock.currentTimeMillis, (now) => this.entry(key, now).machine.restore(found, now))
    )
  }

  reload(options: Omit<CircuitBreaker.Options, "name">): Effect.Effect<void> {
    return Effect.flatMap(Clock.currentTimeMillis, (now) =>
      CircuitBreaker.checked(this.name, options, () => {
        this.settings = CircuitBreaker.compile(options)
        for (const entry of this.entries.values()) entry.machine.reload(this.settings, now)
      })
    )
  }

  control(overrides: ReadonlyMap<string, CircuitBreaker.Override>, now: number): void {
    const before = this.overrides
    this.overrides = overrides
    if (same(before.get(this.name), overrides.get(this.name))) {
      const prefix = `${this.name}/`
      for (const name of new Set([...before.keys(), ...overrides.keys()])) {
        const entry = name.startsWith(prefix) ? this.entries.get(name.slice(prefix.length)) : undefined
        if (entry !== undefined) this.override(entry, now)
      }
    } else {
      for (const entry of this.entries.values()) this.override(entry, now)
    }
  }

  /** The breaker of the key, as the last one to be let go of. */
  private entry(key: string, now: number): Entry {
    const found = this.entries.get(key)
    if (found !== undefined) {
      found.list?.add(found)
      return found
    }
    this.makeRoom(now)
    const made = new Entry(this, key, this.nameOf === undefined ? this.name : this.nameOf(key), this.settings)
    this.enter(made, now)
    return made
  }

  /**
   * Somebody has kept one that was let go of, and uses it. It comes back if it may; in any case it does what holds for all,
   * of which it has not heard meanwhile.
   */
  recall(entry: Entry, now: number): void {
    if (entry.kept === "evicted" && !this.entries.has(entry.key)) {
      this.makeRoom(now)
      entry.kept = "in"
      this.enter(entry, now)
    }
    if (entry.machine.settings !== this.settings) entry.machine.reload(this.settings, now)
    this.override(entry, now)
  }

  /** Puts it into the list that fits its state; where there are too many, others go. */
  place(entry: Entry): void {
    this.sort(entry)
    while (this.entries.size > this.capacity && this.idle.first !== undefined) this.leave(this.idle.first, "evicted")
  }

  tell(key: string, change: CircuitBreaker.Change): void {
    for (const listener of this.listeners) listener({ key, ...change })
  }

  private enter(entry: Entry, now: number): void {
    this.entries.set(entry.key, entry)
    this.sort(entry)
    if (this.overrides.size > 0) this.override(entry, now)
  }

  private sort(entry: Entry): void {
    const { machine } = entry
    if (machine.inFlight > 0 || machine.isForced) entry.list?.remove(entry)
    else if (machine.isResting) this.idle.add(entry)
    else this.troubled.add(entry)
  }

  /** Lets go of a few, if there are too many: all at once could take long. */
  private makeRoom(now: number): void {
    for (let step = 0; step < steps && this.entries.size >= this.capacity && this.evict(now); step++) {}
  }

  /** Lets go of one that nobody needs, if there is one. */
  private evict(now: number): boolean {
    const oldest = this.idle.first
    if (oldest !== undefined) {
      this.leave(oldest, "evicted")
      return true
    }
    for (let step = 0; step < steps; step++) {
      const entry = this.troubled.first
      if (entry === undefined) return false
      if (entry.machine.isForgettable(now, this.forgetAfter)) {
        this.leave(entry, "evicted")
        return true
      }
      this.troubled.add(entry)
    }
    return false
  }

  private leave(entry: Entry, as: "evicted" | "removed"): void {
    entry.list?.remove(entry)
    entry.kept = as
    this.entries.delete(entry.key)
    if (as === "evicted") this.evicted++
  }

  private override(entry: Entry, now: number): void {
    const own = this.overrides.get(`${this.name}/${entry.key}`)
    entry.override(own ?? this.overrides.get(this.name), now, own !== undefined)
  }
}

const same = (a: CircuitBreaker.Override | undefined, b: CircuitBreaker.Override | undefined): boolean =>
  a?.mode === b?.mode && a?.until === b?.until
