/**
 * The arithmetic of the rate limiter's meters. Moments are whole microseconds of the store's clock; all that is counted
 * is whole numbers, so that nothing drifts. The adapters of other stores do the same in the store.
 */
import * as ratio from "./resilience/ratio.ts"

/** How much of a limit is used up. Moments and durations in microseconds. */
export interface Verdict {
  /** How much could pass at once: after the cost was taken, if it was. */
  readonly remaining: number
  /** When the cost can pass, if nothing else does; 0 if now. */
  readonly retryAfter: number
  /** When nothing is used up any more, if nothing else passes. */
  readonly resetAfter: number
}

/** Counts from the first cost on for an interval, then anew. */
export interface WindowMeter {
  readonly kind: "window"
  readonly limit: number
  readonly interval: number
}

/** Keeps what passed in the last interval. What passes within one `grain` is one entry, as of the end of the grain. */
export interface LogMeter {
  readonly kind: "log"
  readonly limit: number
  readonly interval: number
  readonly grain: number
}

/** A bucket into which one of cost fills `perCost`, and out of which each `tick` microseconds drain `perTick`. */
export interface BucketMeter {
  readonly kind: "bucket"
  readonly perCost: number
  readonly perTick: number
  readonly capacity: number
  readonly tick: number
}

export type Meter = WindowMeter | LogMeter | BucketMeter

/** More entries than this are not kept of a log, give or take two. */
export const maxEntries = 1_024

export const window = (limit: number, interval: number): WindowMeter => ({ kind: "window", limit, interval })

export const log = (limit: number, interval: number): LogMeter => ({
  kind: "log",
  limit,
  interval,
  // each entry has a cost of 1 at least: a small limit needs no grains
  grain: limit <= maxEntries ? 1 : Math.ceil(interval / maxEntries)
})

/** Undefined where not even with ticks of a second all that is counted would be whole numbers that a double holds. */
export const bucket = (limit: number, interval: number, burst: number): BucketMeter | undefined => {
  for (const tick of [1, 1_000, 1_000_000]) {
    if (interval % tick !== 0) break
    const [perTick, perCost] = ratio.reduce(limit, interval / tick)
    const capacity = burst * perCost
    if (Number.isSafeInteger(2 * capacity + perTick)) return { kind: "bucket", perCost, perTick, capacity, tick }
  }
  return undefined
}

/** The largest cost that can ever pass. */
export const largestOf = (meter: Meter): number =>
  meter.kind === "bucket" ? meter.capacity / meter.perCost : meter.limit

/** What was used up of one meter. It judges first and takes then, so that several can be asked before any is used. */
export interface Usage {
  readonly kind: Meter["kind"]
  /** Whether the cost could pass at that moment. Later calls are of later moments, or the clock was set back. */
  judge(meter: Meter, now: number, cost: number): Verdict
  /** Takes the cost; in the moment of `judge`, which let it pass. */
  take(meter: Meter, now: number, cost: number): Verdict
}

export const usageOf = (meter: Meter): Usage => {
  switch (meter.kind) {
    case "window":
      return new WindowUsage()
    case "log":
      return new LogUsage()
    case "bucket":
      return new BucketUsage()
  }
}

class WindowUsage implements Usage {
  readonly kind = "window"
  private start = 0
  private used = 0

  judge(meter: WindowMeter, now: number, cost: number): Verdict {
    // a clock that was set back does not make the window longer
    if (now < this.start) this.start = now
    if (now - this.start >= meter.interval) this.used = 0
    const left = this.used === 0 ? 0 : this.start + meter.interval - now
    return {
      remaining: Math.max(0, meter.limit - this.used),
      retryAfter: cost === 0 || this.used + cost <= meter.limit ? 0 : left,
      resetAfter: left
    }
  }

  take(meter: WindowMeter, now: number, cost: number): Verdict {
    if (this.used === 0) this.start = now
    this.used += cost
    return { remaining: meter.limit - this.used, retryAfter: 0, resetAfter: this.start + meter.interval - now }
  }
}

class LogUsage implements Usage {
  readonly kind = "log"
  private times: Array<number> = []
  private costs: Array<number> = []
  /** Entries before it are over. */
  private first = 0
  private used = 0

  judge(meter: LogMeter, now: number, cost: number): Verdict {
    const { grain, interval, limit } = meter
    const last = this.times.at(-1)
    // the clock was set back: it is as if no time had passed
    if (last !== undefined && last - now >= grain) {
      const back = last - endOf(now, grain)
      this.times = this.times.map((time) => time - back)
    }
    let time = this.times[this.first]
    while (time !== undefined && time <= now - interval) {
      this.used -= this.costs[this.first] ?? 0
      time = this.times[++this.first]
    }
    if (this.first > maxEntries || this.first === this.times.length) {
      this.times.splice(0, this.first)
      this.costs.splice(0, this.first)
      this.first = 0
    }
    return {
      remaining: Math.max(0, limit - this.used),
      retryAfter: cost === 0 || this.used + cost <= limit ? 0 : this.freed(this.used + cost - limit) + interval - now,
      resetAfter: (this.times.at(-1) ?? now - interval) + interval - now
    }
  }

  take(meter: LogMeter, now: number, cost: number): Verdict {
    const time = endOf(now, meter.grain)
    const last = this.times.length - 1
    if (this.times[last] === time) this.costs[last] = (this.costs[last] ?? 0) + cost
    else {
      this.times.push(time)
      this.costs.push(cost)
    }
    this.used += cost
    return { remaining: meter.limit - this.used, retryAfter: 0, resetAfter: time + meter.interval - now }
  }

  /** The moment of the entry with which so much goes. */
  private freed(cost: number): number {
    let index = this.first
    let sum = this.costs[index] ?? 0
    while (sum < cost && index < this.times.length - 1) sum += this.costs[++index] ?? 0
    return this.times[index] ?? 0
  }
}

class BucketUsage implements Usage {
  readonly kind = "bucket"
  private level = 0
  /** The beginning of the tick as of which the level is, in microseconds. */
  private at = 0
  private perTick = 0
  private tick = 1

  judge(meter: BucketMeter, now: number, cost: number): Verdict {
    const level = this.levelAt(meter, now)
    const over = level + cost * meter.perCost - meter.capacity
    return {
      remaining: Math.max(0, Math.floor((meter.capacity - level) / meter.perCost)),
      retryAfter: cost === 0 || over <= 0 ? 0 : until(meter, over, now),
      resetAfter: until(meter, level, now)
    }
  }

  take(meter: BucketMeter, now: number, cost: number): Verdict {
    this.level = this.levelAt(meter, now) + cost * meter.perCost
    this.at = beginOf(now, meter.tick)
    this.perTick = meter.perTick
    this.tick = meter.tick
    return {
      remaining: Math.floor((meter.capacity - this.level) / meter.perCost),
      retryAfter: 0,
      resetAfter: until(meter, this.level, now)
    }
  }

  private levelAt(meter: BucketMeter, now: number): number {
    if (this.level === 0) return 0
    if (this.perTick !== meter.perTick || this.tick !== meter.tick) {
      // under other settings as long to drain as before
      const factor = (meter.perTick / this.perTick) * (this.tick / meter.tick)
      this.level = Math.ceil(this.level * factor)
      this.perTick = meter.perTick
      this.tick = meter.tick
      this.at = beginOf(this.at, meter.tick)
    }
    const begin = beginOf(now, meter.tick)
    // the clock was set back: it is as if no time had passed
    if (begin < this.at) this.at = begin
    return Math.max(0, this.level - ((begin - this.at) / meter.tick) * meter.perTick)
  }
}

/** The end of the grain that a moment is in: itself where a grain is one microsecond. */
const endOf = (now: number, grain: number): number => Math.ceil(now / grain) * grain

/** The beginning of the tick that a moment is in. */
const beginOf = (now: number, tick: number): number => Math.floor(now / tick) * tick

/** In how many microseconds so much has drained. */
const until = (meter: BucketMeter, amount: number, now: number): number =>
  amount <= 0 ? 0 : beginOf(now, meter.tick) + Math.ceil(amount / meter.perTick) * meter.tick - now
