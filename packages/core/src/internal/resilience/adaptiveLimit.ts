/**
 * A limit of concurrent calls that finds itself: it moves by how long the calls take and by which of them are dropped.
 * Plain fields and no timer: it learns when a call ends, and is given the time then.
 *
 * The algorithms are of the family of TCP's congestion control, as Netflix has brought it to calls: the gradient of
 * github.com/Netflix/concurrency-limits (`Gradient2Limit`), with the headroom of the square root and the measured baseline
 * of Envoy's adaptive concurrency filter; Vegas and AIMD after `VegasLimit` and `AIMDLimit` of the same library. What they
 * share here, and those do not have: the baseline is measured under part of the load, so that a service that is
 * overloaded for long is not taken for one that has become slower (an average of the past creeps up with the overload, and
 * the limit after it), and by Little's law, so that calls of very different lengths are measured right; a call that was begun before the limit was lowered does not lower it again.
 */

/** How the limit is found. */
export type Algorithm = "gradient" | "vegas" | "aimd"

/** Settings, durations in milliseconds. */
export interface AdaptiveSettings {
  readonly algorithm: Algorithm
  readonly initial: number
  readonly min: number
  readonly max: number
  /** For how long samples are gathered before the limit is moved. */
  readonly window: number
  /** Without as many samples the window goes on. */
  readonly minimumSamples: number
  /** Gradient: which part of the way to the new limit is gone at once. */
  readonly smoothing: number
  /** Gradient: how many times the baseline a latency may be before the limit is lowered. */
  readonly tolerance: number
  /** What the limit is multiplied with after a drop. */
  readonly backoff: number
  /** How often the baseline is measured anew. */
  readonly probeEvery: number
}

/** How a call went, as far as the limit minds; `dropped` is a timeout or an answer that says overload. */
export type Outcome = "success" | "failure" | "dropped"

/** A call that has ended. */
export interface Sample {
  readonly startedAt: number
  readonly outcome: Outcome
}

/** Fewer drops than this part of a window's calls are chance. */
const dropTolerance = 0.02

/** After so many windows the baseline is measured again where there is doubt of it. */
const soonWindows = 5

/** Latencies differ if they do by more than this part. */
const likeness = 0.1

/** A measurement goes on for at least a window, and for as many times what it measures. */
const measuredFor = 5

/** Means differ by chance if they do by less than this many standard errors. */
const chance = 3

/** The limit is lowered to measure for no more than this part of the time. */
const measuredPart = 0.05

/** A measurement that has found fewer samples than this when its time is over has found nothing. */
const fewestSamples = 3

export class AdaptiveLimit {
  settings: AdaptiveSettings
  /** How many may be in flight now. */
  limit: number
  /** The latency without load, in milliseconds; 0 until it is known. */
  baseline = 0
  /** The mean latency of the last window, in milliseconds; 0 until there was one. */
  latency = 0
  /** The limit before it is rounded, and while a measurement lowers it. */
  private estimate: number
  /** The last time that it was told. */
  private seen = Number.NEGATIVE_INFINITY
  private windowFrom = 0
  /** Successes, how long they took, and the squares of it. */
  private count = 0
  private sum = 0
  private squares = 0
  /** All that ended while few were in flight, and the milliseconds of all that were, the unfinished ones too. */
  private ended = 0
  private area = 0
  /** Those of them that began while few were in flight, and how long they took. */
  private whole = 0
  private wholeSum = 0
  private calls = 0
  private drops = 0
  private highest = 0
  /** What was begun before says nothing of the limit as it is now. */
  private loweredAt = Number.NEGATIVE_INFINITY
  private nextProbe = 0
  /** What the last measurement found, its standard error, and the limit that there was; 0 before the first. */
  private found = 0
  private foundError = 0
  private foundAt = 0
  /** Whether the last two measurements agree. */
  private settled = false
  /** When the present measurement began; undefined if there is none. */
  private probingFrom: number | undefined = undefined
  /** Since when no more are in flight than it wants; undefined until then. */
  private quietFrom: number | undefined = undefined

  constructor(settings: AdaptiveSettings) {
    this.settings = settings
    this.estimate = settings.initial
    this.limit = settings.initial
  }

  get probing(): boolean {
    return this.probingFrom !== undefined
  }

  /** A call has ended, or its answer has come; `active` are the places held, the `weight` of its own among them. */
  record(sample: Sample, active: number, now: number, weight = 1): void {
    if (now < this.seen || this.seen === Number.NEGATIVE_INFINITY) this.startAnew(now)
    this.area += active * (now - this.seen)
    this.seen = now
    if (this.probingFrom !== undefined) this.probed(sample, active, now, weight, this.probingFrom)
    else this.gather(sample, active, now)
  }

  /** Ends a measurement whose time is over, also where no call ends any more. */
  look(now: number): void {
    if (this.probingFrom === undefined) return
    if (now < this.seen) this.startAnew(now)
    else if (this.overdue(now, this.probingFrom)) this.endProbe(now)
  }

  /** Keeps what was learned, within the new bounds. */
  reload(settings: AdaptiveSettings): void {
    this.settings = settings
    this.setEstimate(this.estimate)
    this.nextProbe = Math.min(this.nextProbe, this.seen + settings.probeEvery)
  }

  /** The first sample, or a clock that has stepped back: no time of before can be compared with one of now. */
  private startAnew(now: number): void {
    this.seen = now
    this.loweredAt = Number.NEGATIVE_INFINITY
    this.probingFrom = undefined
    this.setEstimate(this.estimate)
    this.startWindow(now)
    this.nextProbe = now + this.soon
  }

  private get soon(): number {
    return Math.min(soonWindows * this.settings.window, this.settings.probeEvery)
  }

  private startWindow(now: number): void {
    this.windowFrom = now
    this.count = 0
    this.sum = 0
    this.squares = 0
    this.ended = 0
    this.area = 0
    this.whole = 0
    this.wholeSum = 0
    this.calls = 0
    this.drops = 0
    this.highest = 0
  }

  private gather(sample: Sample, active: number, now: number): void {
    if (active > this.highest) this.highest = active
    if (sample.startedAt >= this.loweredAt) this.add(sample, now)
    const { minimumSamples, window } = this.settings
    // Twice as long as a call takes, so that what the last window has changed is seen in this one.
    const lasts = this.count === 0 ? window : Math.max(window, (2 * this.sum) / this.count)
    if (now - this.windowFrom < lasts || this.calls < minimumSamples) return
    // Far below the limit the latency has nothing to do with it.
    const near = this.highest * 2 >= this.estimate
    this.learn(near, now)
    const probes = this.settings.algorithm !== "aimd" && near && now >= this.nextProbe
    this.startWindow(now)
    if (probes) this.startProbe(now)
  }

  /** Failures that were no drop say how long it takes to fail, and cancelled calls nothing. */
  private add(sample: Sample, now: number): void {
    if (sample.outcome === "dropped") {
      this.calls++
      this.drops++
      return
    }
    const took = now - sample.startedAt
    if (sample.outcome !== "success" || took < 0) return
    this.calls++
    this.count++
    this.sum += took
    this.squares += took * took
  }

  /** The standard error of the mean. */
  private get error(): number {
    const mean = this.sum / this.count
    return Math.sqrt(Math.max(0, this.squares / this.count - mean * mean) / this.count)
  }

  /** Whether the window's mean differs from what was found, and not by chance. */
  private differs(mean: number): boolean {
    const error = Math.hypot(this.error, this.foundError)
    return Math.abs(mean - this.found) > Math.max(this.found * likeness, chance * error)
  }

  private get dropping(): boolean {
    return this.drops > this.calls * dropTolerance
  }

  private learn(near: boolean, now: number): void {
    if (this.count > 0) this.measure(near, now)
    if (this.dropping) this.lower(this.estimate * this.settings.backoff, now)
    else if (near) this.move(now)
  }

  /** The window's mean, and what it says of the baseline. */
  private measure(near: boolean, now: number): void {
    // The clock counts milliseconds: what is below is not known.
    this.latency = Math.max(1, this.sum / this.count)
    // Before it was measured nothing is too slow.
    if (this.found === 0) this.baseline = this.latency
    // No load of ours makes it slow, or none that could be less: so the service itself is as quick or slow as this.
    else if (!near || this.limit <= this.settings.min) this.baseline += (this.latency - this.baseline) / 5
    // Not lowered by this: of noise it would keep the lowest, and the limit would follow.
    else if (this.latency < this.baseline && this.differs(this.latency)) this.doubt(now)
  }

  private move(now: number): void {
    const next = this.next()
    if (next < this.estimate) this.lower(next, now)
    else this.setEstimate(next)
  }

  private lower(next: number, now: number): void {
    this.loweredAt = now
    this.setEstimate(next)
    // So much less, and it is still slow: perhaps it is not the load.
    if (this.estimate < this.foundAt / 2) this.doubt(now)
  }

  private doubt(now: number): void {
    this.settled = false
    this.foundAt = this.estimate
    this.nextProbe = Math.min(this.nextProbe, now + this.soon)
  }

  private next(): number {
    const { estimate } = this
    if (this.settings.algorithm === "aimd") return estimate + 1
    if (this.settings.algorithm === "gradient") {
      const { smoothing, tolerance } = this.settings
      const gradient = Math.max(0.5, Math.min(1, (tolerance * this.baseline) / this.latency))
      return estimate + (estimate * gradient + Math.sqrt(estimate) - estimate) * smoothing
    }
    // How many of ours wait within the service, if the rest are being worked on.
    const queued = estimate * (1 - Math.min(1, this.baseline / this.latency))
    const step = Math.max(1, Math.log10(estimate))
    if (queued <= step) return estimate + 6 * step
    if (queued < 3 * step) return estimate + step
    return queued > 6 * step ? estimate - Math.max(step, (queued - 6 * step) / 2) : estimate
  }

  private setEstimate(estimate: number): void {
    this.estimate = Math.max(this.settings.min, Math.min(this.settings.max, estimate))
    this.limit = this.probingFrom === undefined ? Math.floor(this.estimate) : this.fewer()
  }

  /** Half is below what the service can do wherever the limit is about right; where that is in doubt, a quarter. */
  private fewer(): number {
    return Math.max(this.settings.min, Math.floor(this.estimate / (this.settled ? 2 : 4)))
  }

  /** Fewer calls for a moment: how long they take then is the baseline. */
  private startProbe(now: number): void {
    this.probingFrom = now
    this.quietFrom = undefined
    this.limit = this.fewer()
  }

  private probed(sample: Sample, active: number, now: number, weight: number, from: number): void {
    if (this.quietFrom !== undefined) this.ended += weight
    if (this.isQuiet(sample)) {
      this.whole++
      this.wholeSum += now - sample.startedAt
    }
    const counts = sample.outcome === "dropped" ? sample.startedAt >= this.loweredAt : this.isQuiet(sample)
    if (counts) this.add(sample, now)
    if (this.quietFrom === undefined && active <= this.limit) {
      this.quietFrom = now
      this.area = 0
    }
    if (this.measured(now) || this.overdue(now, from)) this.endProbe(now)
  }

  private measured(now: number): boolean {
    if (this.quietFrom === undefined || this.count < this.settings.minimumSamples) return false
    return now - this.quietFrom >= Math.max(this.settings.window, measuredFor * this.measurement)
  }

  /**
   * How long calls take, by Little's law: how many are in flight, by how many end in a time. The mean of those that have
   * ended would be that of the quick ones, which end first. Failures are taken out in proportion.
   */
  private get measurement(): number {
    const successes = this.sum / this.count / (this.wholeSum / this.whole || 1)
    return Math.max(1, (this.area / this.ended) * (this.wholeSum === 0 ? 1 : successes))
  }

  private isQuiet(sample: Sample): boolean {
    return this.quietFrom !== undefined && sample.startedAt >= this.quietFrom
  }

  private overdue(now: number, from: number): boolean {
    return now - from >= Math.max(this.settings.probeEvery / 4, 2 * measuredFor * this.latency)
  }

  private endProbe(now: number): void {
    const { backoff, probeEvery } = this.settings
    const lasted = now - (this.probingFrom ?? now)
    this.nextProbe = now + Math.max(probeEvery, lasted / measuredPart)
    this.probingFrom = undefined
    if (this.count >= fewestSamples) this.find(this.measurement, now)
    if (this.dropping) this.lower(this.estimate * backoff, now)
    else this.setEstimate(this.estimate)
    this.startWindow(now)
  }

  private find(found: number, now: number): void {
    this.settled = !this.differs(found)
    if (!this.settled) this.nextProbe = now + this.soon
    this.found = found
    this.foundError = this.error
    this.foundAt = this.estimate
    this.baseline = found
  }
}
