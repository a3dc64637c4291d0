/**
 * A running estimate of one quantile of recent times: a histogram whose buckets grow by a constant ratio (as in DDSketch,
 * https://arxiv.org/abs/1908.10693), with weights that halve as time passes (forward decay, Cormode and others 2009).
 * Memory is constant, and a place is kept at the quantile, so that recording moves it by a bucket or so and reading costs
 * nothing.
 */

/** Each bucket ends at 1.04 times the end of the one before, so that its middle is within 2 % of all that is in it. */
const ratio = 1.04
const logRatio = Math.log(ratio)

/** From 1 ms in the first bucket to just under an hour in the last. */
const buckets = 384

/** The greatest relative error of an estimate within the range. */
export const relativeError = (ratio - 1) / (ratio + 1)

/** The weight of a new time is at most two to this power; then all are scaled down. */
const maxExponent = 20

const bucketOf = (millis: number): number =>
  // Also what is not a number: it is as good as none.
  millis > 1 ? Math.min(buckets - 1, Math.ceil(Math.log(millis) / logRatio)) : 0

const middleOf = (bucket: number): number => (2 * ratio ** bucket) / (ratio + 1)

/** The estimate of one quantile. */
export class LatencyQuantile {
  private weights: Float64Array | undefined = undefined
  /** The time at which a record weighs 1. */
  private landmark = 0
  private latest = 0
  private total = 0
  /** The bucket that the quantile is in, and the weight of all before it. */
  private place = 0
  private below = 0
  private part: number
  private halfLife: number

  /** `part` is above 0 and below 1: 0.95 is the 95th percentile. `halfLife` is in milliseconds. */
  constructor(part: number, halfLife: number) {
    this.part = part
    this.halfLife = halfLife
  }

  /** Another quantile or half-life of the same times. */
  reload(part: number, halfLife: number): void {
    // The weights so far are brought to the latest time, at which every half-life gives the same.
    if (this.weights !== undefined) this.rescale(this.weights, this.latest)
    this.part = part
    this.halfLife = halfLife
    if (this.weights !== undefined) this.settle(this.weights)
  }

  record(now: number, millis: number): void {
    const weights = this.start(now)
    const bucket = bucketOf(millis)
    const weight = 2 ** ((now - this.landmark) / this.halfLife)
    weights[bucket] = (weights[bucket] ?? 0) + weight
    this.total += weight
    if (bucket < this.place) this.below += weight
    this.settle(weights)
  }

  /** How many times are known, an old one counting less than a whole one. */
  samples(now: number): number {
    this.advance(now)
    return this.total * 2 ** ((this.landmark - this.latest) / this.halfLife)
  }

  /** The quantile in milliseconds; undefined before the first time. */
  estimate(): number | undefined {
    return this.total > 0 ? middleOf(this.place) : undefined
  }

  private start(now: number): Float64Array {
    if (this.weights === undefined) {
      this.weights = new Float64Array(buckets)
      this.landmark = now
      this.latest = now
      return this.weights
    }
    this.advance(now)
    if ((now - this.landmark) / this.halfLife > maxExponent) this.rescale(this.weights, now)
    return this.weights
  }

  /** A clock that steps back makes nothing younger or older: as if no time had passed. */
  private advance(now: number): void {
    if (now < this.latest) this.landmark -= this.latest - now
    this.latest = now
  }

  private rescale(weights: Float64Array, now: number): void {
    const factor = 2 ** ((this.landmark - now) / this.halfLife)
    let total = 0
    let below = 0
    for (let bucket = 0; bucket < buckets; bucket++) {
      const weight = (weights[bucket] ?? 0) * factor
      weights[bucket] = weight
      total += weight
      if (bucket < this.place) below += weight
    }
    this.landmark = now
    this.total = total
    this.below = below
  }

  /** Moves the place to the first bucket that the quantile is not beyond. */
  private settle(weights: Float64Array): void {
    const target = this.part * this.total
    while (this.place > 0 && this.below >= target) {
      this.place--
      this.below -= weights[this.place] ?? 0
    }
    while (this.place < buckets - 1) {
      const reached = this.below + (weights[this.place] ?? 0)
      if (reached >= target) return
      this.below = reached
      this.place++
    }
  }
}
