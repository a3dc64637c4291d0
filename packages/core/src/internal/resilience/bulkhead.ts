/**
 * The state machine of a bulkhead: places that are held, and a queue for each priority of those who wait for one. Plain
 * fields and linked lists: entering, queueing, leaving and giving up each cost the same however many wait.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import { AdaptiveLimit, type AdaptiveSettings, type Sample } from "./adaptiveLimit.ts"
import type { Entry, Gate, Priority } from "./gate.ts"
import type { Restore } from "./timed.ts"
import { schedule } from "./timer.ts"

export type { Outcome, Sample } from "./adaptiveLimit.ts"

/** Settings, durations in milliseconds. */
export interface Settings {
  /** A fixed number of places, or how the number is found. */
  readonly limit: number | AdaptiveSettings
  readonly maxQueue: number
  readonly maxWait: number
}

/** Why there is no place. */
export type Reason = "queue-full" | "wait-too-long" | "weight-above-limit"

/** Makes what is failed with. */
export type Reject<Rejection> = (service: string, reason: Reason, weight: number, limit: number) => Rejection

/** Counters since the bulkhead was made. */
export interface Counters {
  entered: number
  waited: number
  rejected: number
  displaced: number
  interrupted: number
}

/** The longest wait of a timer of JavaScript. */
const maxTimer = 2 ** 31 - 1

/** How many priorities there are; `rank` says which place each has among them. */
const ranks = 3

const rank = (priority: Priority): number => (priority === "high" ? 0 : priority === "normal" ? 1 : 2)

/** One who waits, and its neighbours in the queue of its priority. */
class Waiter<Rejection> {
  before: Waiter<Rejection> | undefined = undefined
  after: Waiter<Rejection> | undefined = undefined
  state: "waiting" | "entered" | "rejected" = "waiting"
  rejection: Rejection | undefined = undefined
  readonly weight: number
  readonly rank: number
  readonly deadline: number
  private resume: ((effect: Effect.Effect<void>) => void) | undefined = undefined
  private cancelTimer = (): void => {}

  constructor(weight: number, rank: number, deadline: number) {
    this.weight = weight
    this.rank = rank
    this.deadline = deadline
  }

  arm(fiber: Fiber.RuntimeFiber<unknown, unknown>, millis: number, expire: () => void): void {
    this.cancelTimer = schedule(fiber, millis, expire)
  }

  listen(resume: (effect: Effect.Effect<void>) => void): void {
    if (this.state === "waiting") this.resume = resume
    else resume(Effect.void)
  }

  end(state: "entered" | "rejected"): void {
    this.state = state
    this.cancelTimer()
    this.resume?.(Effect.void)
  }

  /** Nobody waits for it any more. */
  disarm(): void {
    this.cancelTimer()
  }
}

/** Those of one priority who wait, the oldest first. */
class Queue<Rejection> {
  first: Waiter<Rejection> | undefined = undefined
  last: Waiter<Rejection> | undefined = undefined

  push(waiter: Waiter<Rejection>): void {
    waiter.before = this.last
    if (this.last === undefined) this.first = waiter
    else this.last.after = waiter
    this.last = waiter
  }

  remove(waiter: Waiter<Rejection>): void {
    if (waiter.before === undefined) this.first = waiter.after
    else waiter.before.after = waiter.after
    if (waiter.after === undefined) this.last = waiter.before
    else waiter.after.before = waiter.before
    waiter.before = undefined
    waiter.after = undefined
  }
}

export class Bulkhead<Rejection> implements Gate<Rejection> {
  readonly name: string
  /** Places that are held. */
  active = 0
  /** How many wait. */
  queued = 0
  /** How many places there are at the moment. */
  limit: number
  maxQueue: number
  maxWait: number
  readonly counters: Counters = { entered: 0, waited: 0, rejected: 0, displaced: 0, interrupted: 0 }
  /** What finds the limit; undefined where it is fixed. */
  limiter: AdaptiveLimit | undefined
  private readonly reject: Reject<Rejection>
  /** By rank; made when somebody waits for the first time. */
  private queues: ReadonlyArray<Queue<Rejection>> | undefined = undefined

  constructor(name: string, settings: Settings, reject: Reject<Rejection>) {
    this.name = name
    this.reject = reject
    this.maxQueue = settings.maxQueue
    this.maxWait = settings.maxWait
    if (typeof settings.limit === "number") {
      this.limiter = undefined
      this.limit = settings.limit
    } else {
      this.limiter = new AdaptiveLimit(settings.limit)
      this.limit = this.limiter.limit
    }
  }

  tryEnter(_now: number, weight: number): boolean {
    // What is no weight at all is for `enter` to refuse.
    if (this.queued !== 0 || !(this.active + weight <= this.limit) || !isWeight(weight) || weight > this.heaviest) {
      return false
    }
    this.active += weight
    this.counters.entered++
    return true
  }

  enter(restore: Restore, deadline: number, entry: Entry): Effect.Effect<void, Rejection> {
    return Effect.withFiberRuntime<void, Rejection>((fiber) => {
      const clock = Context.get(fiber.currentDefaultServices, Clock.Clock)
      const now = clock.unsafeCurrentTimeMillis()
      const { weight } = entry
      if (!isWeight(weight)) {
        return Effect.dieMessage(`Bulkhead "${this.name}": the weight is ${weight}: give a whole number of 1 or more`)
      }
      const refused = this.refusal(now, deadline, weight, rank(entry.priority))
      if (refused === "none") return Effect.void
      if (refused !== "wait") return this.fail(refused, weight)
      const waiter = this.queue(weight, rank(entry.priority), deadline)
      waiter.arm(fiber, Math.min(this.maxWait, deadline - now, maxTimer), () =>
        this.expire(waiter, clock.unsafeCurrentTimeMillis())
      )
      // Not by the canceller of `Effect.async`, which an interruption right after the registration does not call.
      return Effect.matchCauseEffect(restore(Effect.async<void>((resume) => waiter.listen(resume))), {
        onFailure: (interruption) => {
          this.cancel(waiter, clock.unsafeCurrentTimeMillis())
          return Effect.failCause(interruption)
        },
        onSuccess: () => (waiter.rejection === undefined ? Effect.void : Effect.failCause(Cause.fail(waiter.rejection)))
      })
    })
  }

  /**
   * Gives places back: once for each entry, with the weight that it entered with, as soon as its work has really ended.
   * The sample is what an adaptive limit learns from; undefined if the call says nothing of the service.
   */
  leave(now: number, sample: Sample | undefined, weight = 1): void {
    if (sample !== undefined) this.record(sample, now, weight)
    this.active -= weight
    this.advance(now)
  }

  /** Tells an adaptive limit how a call goes whose places are still held. */
  learn(now: number, sample: Sample): void {
    this.record(sample, now, 1)
    this.advance(now)
  }

  /**
   * Changes the settings in place. Those in flight go on, those who wait keep their place and their time; only who is now
   * heavier than the limit is refused.
   */
  reload(settings: Settings, now: number): void {
    this.maxQueue = settings.maxQueue
    this.maxWait = settings.maxWait
    if (typeof settings.limit === "number") {
      this.limiter = undefined
      this.limit = settings.limit
    } else {
      if (this.limiter === undefined) this.limiter = new AdaptiveLimit(settings.limit)
      else this.limiter.reload(settings.limit)
      this.limit = this.limiter.limit
    }
    for (const queue of this.queues ?? []) {
      let waiter = queue.first
      while (waiter !== undefined) {
        const next = waiter.after
        if (waiter.weight > this.heaviest) this.refuse(waiter, "weight-above-limit")
        waiter = next
      }
    }
    this.advance(now)
  }

  /** Whether samples are of use. */
  get adaptive(): boolean {
    return this.limiter !== undefined
  }

  /** What a call can weigh so that it is sure to enter some time. */
  get heaviest(): number {
    return this.limiter === undefined ? this.limit : this.limiter.settings.min
  }

  /** A limit that has become fixed meanwhile learns nothing. */
  private record(sample: Sample, now: number, weight: number): void {
    if (this.limiter === undefined) return
    this.limiter.record(sample, this.active, now, weight)
    this.limit = this.limiter.limit
  }

  /** "none" if it has entered, "wait" if it may wait, else why not. */
  private refusal(now: number, deadline: number, weight: number, rank: number): Reason | "none" | "wait" {
    if (weight > this.heaviest) return "weight-above-limit"
    if (deadline <= now) return "wait-too-long"
    if (this.limiter?.probing === true) {
      this.limiter.look(now)
      this.limit = this.limiter.limit
      this.advance(now)
    }
    if (this.active + weight <= this.limit && !this.anyWaits(rank)) {
      this.active += weight
      this.counters.entered++
      return "none"
    }
    if (this.maxQueue === 0) return "queue-full"
    return this.queued < this.maxQueue || this.displace(rank) ? "wait" : "queue-full"
  }

  private fail(reason: Reason, weight: number): Effect.Effect<never, Rejection> {
    this.counters.rejected++
    // Not `Effect.fail`, which would wrap the object under a span.
    return Effect.failCause(Cause.fail(this.reject(this.name, reason, weight, this.heaviest)))
  }

  /** Whether anybody of this rank or a higher one waits. */
  private anyWaits(rank: number): boolean {
    for (let each = 0; each <= rank; each++) {
      if (this.queues?.[each]?.first !== undefined) return true
    }
    return false
  }

  private queue(weight: number, rank: number, deadline: number): Waiter<Rejection> {
    this.queues ??= Array.from({ length: ranks }, () => new Queue<Rejection>())
    const waiter = new Waiter<Rejection>(weight, rank, deadline)
    this.queues[rank]?.push(waiter)
    this.queued++
    this.counters.waited++
    return waiter
  }

  /** Refuses the youngest of the lowest priority in favour of a higher one. */
  private displace(rank: number): boolean {
    for (let each = ranks - 1; each > rank; each--) {
      const youngest = this.queues?.[each]?.last
      if (youngest !== undefined) {
        this.counters.displaced++
        this.refuse(youngest, "queue-full")
        return true
      }
    }
    return false
  }

  private remove(waiter: Waiter<Rejection>): void {
    this.queues?.[waiter.rank]?.remove(waiter)
    this.queued--
  }

  private refuse(waiter: Waiter<Rejection>, reason: Reason): void {
    this.remove(waiter)
    this.counters.rejected++
    waiter.rejection = this.reject(this.name, reason, waiter.weight, this.heaviest)
    waiter.end("rejected")
  }

  private expire(waiter: Waiter<Rejection>, now: number): void {
    // Between its task and its cancellation a timer of any clock but the live one has a turn of the scheduler.
    if (waiter.state !== "waiting") return
    this.refuse(waiter, "wait-too-long")
    this.advance(now)
  }

  /** The one who waits is interrupted; it may have got its places in the same moment. */
  private cancel(waiter: Waiter<Rejection>, now: number): void {
    this.counters.interrupted++
    if (waiter.state === "waiting") {
      this.remove(waiter)
      waiter.disarm()
      this.advance(now)
    } else if (waiter.state === "entered") {
      this.leave(now, undefined, waiter.weight)
    }
  }

  /** Lets in who is next, as long as they fit: nobody overtakes one who needs more places than are free. */
  private advance(now: number): void {
    while (this.queued !== 0) {
      const next = this.next()
      if (next === undefined) return
      if (next.deadline <= now) {
        this.refuse(next, "wait-too-long")
        continue
      }
      if (this.active + next.weight > this.limit) return
      this.remove(next)
      this.active += next.weight
      this.counters.entered++
      next.end("entered")
    }
  }

  private next(): Waiter<Rejection> | undefined {
    for (const queue of this.queues ?? []) {
      if (queue.first !== undefined) return queue.first
    }
    return undefined
  }
}

const isWeight = (weight: number): boolean => Number.isInteger(weight) && weight >= 1
