/**
 * A model of the rate limiter's meters that keeps all that ever passed and looks at all of it each time, with fractions of
 * any size: slow, and plain enough to be seen to be right. The suite compares adapters with it.
 */
import type { Meter, Verdict } from "./rateLimiter.ts"

interface Passed {
  /** Microseconds, as if the clock had been moved forward instead of what is kept made older. */
  readonly at: number
  readonly cost: number
  /** As when it counts: `at`, or the edge of the grain or tick that it is in. */
  readonly counts: ReadonlyArray<number>
}

export interface Model {
  /** `aged`: by how many microseconds what is kept was made older. */
  readonly judge: (at: number, aged: number, cost: number, take: boolean) => ReadonlyArray<Verdict>
  /** The meters by which more passed in an interval than they may let pass. */
  readonly exceeded: () => ReadonlyArray<string>
}

/** About how long it takes until nothing is used up. */
export const millisOf = (meter: Meter): number =>
  meter.kind === "bucket"
    ? Math.ceil((meter.capacity / meter.perTick) * (meter.tick / 1_000))
    : Math.ceil(meter.interval / 1_000)

export const make = (meters: ReadonlyArray<Meter>): Model => {
  const passed: Array<Passed> = []

  const countsAt = (meter: Meter, at: number, aged: number): number => {
    switch (meter.kind) {
      case "window":
        return at + aged
      case "log":
        return Math.ceil(at / meter.grain) * meter.grain + aged
      case "bucket":
        return Math.floor(at / meter.tick) * meter.tick + aged
    }
  }

  const judgeOne = (meter: Meter, index: number, at: number, aged: number, cost: number): Verdict => {
    const now = at + aged
    if (meter.kind === "window") {
      let start = Number.NEGATIVE_INFINITY
      let used = 0
      for (const one of passed) {
        if (one.at >= start + meter.interval) {
          start = one.at
          used = 0
        }
        used += one.cost
      }
      if (now >= start + meter.interval) used = 0
      const left = used === 0 ? 0 : start + meter.interval - now
      return {
        remaining: meter.limit - used,
        retryAfter: used + cost <= meter.limit ? 0 : left,
        resetAfter: left
      }
    }
    if (meter.kind === "log") {
      const usedAt = (moment: number): number =>
        passed.reduce((sum, one) => sum + ((one.counts[index] ?? 0) > moment - meter.interval ? one.cost : 0), 0)
      const moments = passed.map((one) => (one.counts[index] ?? 0) + meter.interval).filter((moment) => moment > now)
      const passes = (moment: number): boolean => usedAt(moment) + cost <= meter.limit
      return {
        remaining: meter.limit - usedAt(now),
        retryAfter: passes(now) ? 0 : (moments.find(passes) ?? Number.NaN) - now,
        resetAfter: (moments.at(-1) ?? now) - now
      }
    }
    // one of cost is as much as an interval of as many ticks as perCost drains with perTick
    const [perCost, perTick] = [BigInt(meter.perCost), BigInt(meter.perTick)]
    const tick = BigInt(meter.tick)
    let level = 0n
    let before: number | undefined
    const drain = (until: number): void => {
      // without ticks: in parts of a tick's microseconds
      if (before !== undefined) level -= BigInt(until - before) * perTick
      if (level < 0n) level = 0n
      before = until
    }
    for (const one of passed) {
      drain(one.counts[index] ?? 0)
      level += BigInt(one.cost) * perCost * tick
    }
    const begin = countsAt(meter, at, aged)
    drain(begin)
    const capacity = BigInt(meter.capacity) * tick
    const ticksFor = (amount: bigint): number =>
      amount <= 0n ? 0 : begin + Number((amount + perTick * tick - 1n) / (perTick * tick)) * meter.tick - now
    return {
      remaining: Number((capacity - level) / (perCost * tick)),
      retryAfter: cost === 0 ? 0 : ticksFor(level + BigInt(cost) * perCost * tick - capacity),
      resetAfter: ticksFor(level)
    }
  }

  return {
    judge: (at, aged, cost, take) => {
      const verdicts = meters.map((meter, index) => judgeOne(meter, index, at, aged, cost))
      if (!take || cost === 0 || verdicts.some((verdict) => verdict.retryAfter > 0)) return verdicts
      passed.push({ at: at + aged, cost, counts: meters.map((meter) => countsAt(meter, at, aged)) })
      return meters.map((meter, index) => judgeOne(meter, index, at, aged, 0))
    },
    exceeded: () =>
      meters.flatMap((meter) => {
        const [span, most] =
          meter.kind === "bucket"
            ? // what drains in the time of a limit, less a tick for where the ticks begin
              [meter.perCost * meter.tick, meter.capacity / meter.perCost + meter.perTick - 1]
            : [meter.interval, meter.kind === "log" ? meter.limit : 2 * meter.limit]
        const slack = meter.kind === "bucket" ? meter.tick - 1 : 0
        return passed.some(
          (first, index) =>
            passed.slice(index).reduce((sum, one) => sum + (one.at < first.at + span - slack ? one.cost : 0), 0) > most
        )
          ? [`${meter.kind}: more than ${most} in ${span}`]
          : []
      })
  }
}
