/**
 * The state machine of a circuit breaker: plain fields changed in one step, no timer, no fiber. Time is given to it, so
 * that its state is what the clock says when it is read. `CircuitBreaker` is the interface to it.
 */

/** A breaker's state. */
export type State = "closed" | "open" | "half-open"

/** What counts for opening: failures in a row, or a rate among the last `size` results. */
export type WindowSettings =
  | { readonly type: "consecutive"; readonly failures: number }
  | { readonly type: "count"; readonly size: number; readonly failureRate: number; readonly minimumCalls: number }

/** Settings, durations in milliseconds. */
export interface Settings {
  readonly window: WindowSettings
  /** For how long it stays open the n-th time in a row (from 1). */
  readonly openFor: (opened: number) => number
  readonly halfOpenPermits: number
  readonly halfOpenSuccessRate: number
  /** After this long a probe that has not settled gives its place to another. */
  readonly lease: number
}

/** The right to one call. It belongs to the generation that it was given in. */
export interface Permit {
  readonly generation: number
  /** When a probe's lease ends; undefined for a call through a closed breaker. */
  readonly leaseUntil: number | undefined
  settled: boolean
}

/** How a call went, as far as the breaker minds. */
export type Outcome = "success" | "failure" | "neutral"

/** Overrides the state machine. */
export type Mode = "automatic" | "forced-open" | "disabled"

/** Counters since the breaker was made. */
export interface Counters {
  successes: number
  failures: number
  neutral: number
  rejected: number
  stale: number
  leasesLost: number
  opened: number
}

/** A change of state, as seen when somebody looked. */
export interface Change {
  readonly from: State
  readonly to: State
  readonly at: number
}

/** A rejection in half-open says this, in milliseconds: the probe's answer may come at any moment. */
const halfOpenHint = 1_000

/** The last results of calls, as bits in a ring. */
class Ring {
  private readonly bits: Uint8Array
  private next = 0
  count = 0
  failures = 0

  constructor(size: number) {
    this.bits = new Uint8Array(size)
  }

  push(failed: boolean): void {
    if (this.count === this.bits.length) {
      this.failures -= this.bits[this.next] ?? 0
    } else {
      this.count++
    }
    const bit = failed ? 1 : 0
    this.bits[this.next] = bit
    this.failures += bit
    this.next = (this.next + 1) % this.bits.length
  }

  clear(): void {
    this.bits.fill(0)
    this.next = 0
    this.count = 0
    this.failures = 0
  }
}

export class Breaker {
  readonly settings: Settings
  mode: Mode = "automatic"
  /** Grows with every change of state: what was permitted before cannot change what is now. */
  generation = 0
  readonly counters: Counters = {
    successes: 0,
    failures: 0,
    neutral: 0,
    rejected: 0,
    stale: 0,
    leasesLost: 0,
    opened: 0
  }
  readonly listeners = new Set<(change: Change) => void>()
  private current: State = "closed"
  private openUntil = 0
  /** How often it opened since it was last closed. */
  private openings = 0
  private consecutive = 0
  private readonly ring: Ring | undefined
  private probes: Array<Permit> = []
  private probeSuccesses = 0
  private probeFailures = 0

  constructor(settings: Settings) {
    this.settings = settings
    this.ring = settings.window.type === "count" ? new Ring(settings.window.size) : undefined
  }

  /** The state at this moment; an open breaker whose time is over is half-open. */
  state(now: number): State {
    if (this.mode === "forced-open") return "open"
    if (this.mode === "disabled") return "closed"
    if (this.current === "open" && now >= this.openUntil) this.change("half-open", now)
    return this.current
  }

  /** Calls that are permitted and have not ended, as far as they hold a place: the probes. */
  probesInFlight(now: number): number {
    this.loseLeases(now)
    return this.probes.length
  }

  /** Failures in a row, or in the window. */
  get failures(): number {
    return this.ring === undefined ? this.consecutive : this.ring.failures
  }

  /** A permit, or for how many milliseconds there is none (infinite if until somebody says otherwise). */
  acquire(now: number): Permit | number {
    if (this.mode !== "automatic") {
      if (this.mode === "disabled") return { generation: -1, leaseUntil: undefined, settled: false }
      this.counters.rejected++
      return Number.POSITIVE_INFINITY
    }
    if (this.current === "closed") {
      return { generation: this.generation, leaseUntil: undefined, settled: false }
    }
    if (this.current === "open") {
      if (now < this.openUntil) {
        this.counters.rejected++
        return this.openUntil - now
      }
      this.change("half-open", now)
    }
    if (this.probes.length > 0) this.loseLeases(now)
    if (this.probes.length + this.probeSuccesses + this.probeFailures >= this.settings.halfOpenPermits) {
      this.counters.rejected++
      let hint = halfOpenHint
      for (const probe of this.probes) hint = Math.min(hint, (probe.leaseUntil ?? now) - now)
      return Math.max(1, hint)
    }
    const permit: Permit = {
      generation: this.generation,
      leaseUntil: now + this.settings.lease,
      settled: false
    }
    this.probes.push(permit)
    return permit
  }

  /** Gives a permit back. Only the first time counts. */
  settle(permit: Permit, outcome: Outcome, now: number): void {
    if (permit.settled) return
    permit.settled = true
    this.count(outcome)
    if (permit.generation !== this.generation || this.mode !== "automatic") {
      if (permit.generation !== -1) this.counters.stale++
      return
    }
    if (this.current === "half-open") {
      const index = this.probes.indexOf(permit)
      if (index === -1) {
        // Its lease was lost: another probe has its place.
        this.counters.stale++
        return
      }
      this.probes.splice(index, 1)
      this.probed(outcome, now)
      return
    }
    this.result(outcome, now)
  }

  /** The permit's probe has shown that the service answers, though its call goes on: judged now, and followed by a new
   * permit under which the rest of the call counts. */
  progressed(permit: Permit, now: number): Permit {
    if (permit.leaseUntil === undefined || permit.settled) return permit
    this.settle(permit, "success", now)
    return { generation: this.generation, leaseUntil: undefined, settled: false }
  }

  setMode(mode: Mode, now: number): void {
    if (mode === this.mode) return
    const before = this.state(now)
    this.mode = mode
    // Whatever comes next starts anew: no probe and no result of before has a part in it.
    this.close()
    this.generation++
    const after = this.state(now)
    if (before !== after) this.notify({ from: before, to: after, at: now })
  }

  reset(now: number): void {
    const before = this.state(now)
    this.mode = "automatic"
    this.close()
    this.generation++
    if (before !== "closed") this.notify({ from: before, to: "closed", at: now })
  }

  private count(outcome: Outcome): void {
    if (outcome === "success") this.counters.successes++
    else if (outcome === "failure") this.counters.failures++
    else this.counters.neutral++
  }

  private result(outcome: Outcome, now: number): void {
    if (outcome === "neutral") return
    const failed = outcome === "failure"
    const window = this.settings.window
    if (window.type === "consecutive") {
      this.consecutive = failed ? this.consecutive + 1 : 0
      if (this.consecutive >= window.failures) this.open(now)
      return
    }
    const ring = this.ring
    if (ring === undefined) return
    ring.push(failed)
    if (failed && ring.count >= window.minimumCalls && ring.failures / ring.count >= window.failureRate) {
      this.open(now)
    }
  }

  private probed(outcome: Outcome, now: number): void {
    if (outcome === "neutral") return
    if (outcome === "success") this.probeSuccesses++
    else this.probeFailures++
    const needed = Math.max(1, Math.ceil(this.settings.halfOpenPermits * this.settings.halfOpenSuccessRate))
    if (this.probeSuccesses >= needed) this.change("closed", now)
    else if (this.settings.halfOpenPermits - this.probeFailures < needed) this.open(now)
  }

  private loseLeases(now: number): void {
    const kept = this.probes.filter((probe) => probe.leaseUntil === undefined || probe.leaseUntil > now)
    this.counters.leasesLost += this.probes.length - kept.length
    this.probes = kept
  }

  private open(now: number): void {
    this.openings++
    this.counters.opened++
    this.openUntil = now + this.settings.openFor(this.openings)
    this.change("open", now)
  }

  private close(): void {
    this.current = "closed"
    this.openings = 0
    this.consecutive = 0
    this.ring?.clear()
    this.clearProbes()
  }

  private clearProbes(): void {
    this.probes = []
    this.probeSuccesses = 0
    this.probeFailures = 0
  }

  private change(to: State, now: number): void {
    const from = this.current
    this.generation++
    if (to === "closed") {
      this.close()
    } else {
      this.current = to
      this.clearProbes()
    }
    this.notify({ from, to, at: now })
  }

  private notify(change: Change): void {
    for (const listener of this.listeners) listener(change)
  }
}
