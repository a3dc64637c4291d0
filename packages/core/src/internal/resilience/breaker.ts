/**
 * The state machine of a circuit breaker: plain fields changed in one step, no timer, no fiber. Time is given to it, so
 * that its state is what the clock says when it is read. `CircuitBreaker` is the interface to it.
 *
 * Within it time never goes back: a clock that steps back counts as one that stands still, so that nothing waits longer
 * than its settings say. What it hands out is by the clock again.
 */
import * as Duration from "effect/Duration"
import type * as window from "./breakerWindow.ts"
import { CountWindow, least, reaches, TimeWindow } from "./breakerWindow.ts"

/** A breaker's state. */
export type State = "closed" | "open" | "half-open"

export type WindowSettings = window.WindowSettings

/** A time that grows with every opening in a row, in milliseconds. */
export interface Growing {
  readonly initial: number
  readonly factor: number
  readonly max: number
}

/** Settings, durations in milliseconds, infinite for none. */
export interface Settings {
  readonly window: WindowSettings
  /** A call that takes longer is slow. */
  readonly slowAfter: number
  /** The part of slow calls that opens it; undefined: they are only counted. */
  readonly slowRate: number | undefined
  /** For how long it stays open; a function is given the how manieth time in a row it is (from 1). */
  readonly openFor: number | Growing | ((opened: number) => Duration.DurationInput)
  /** By up to this part the open time is shortened at random. */
  readonly jitter: number
  readonly random: () => number
  /** Up to this long the service's own wish lengthens the open time; 0: it is not minded. */
  readonly retryAfterCap: number
  readonly halfOpenPermits: number
  readonly halfOpenSuccessRate: number
  /** After this long a probe that has not settled gives its place to another. */
  readonly lease: number
  /** After closing, the part of the calls that pass grows from `from` to all of them. */
  readonly ramp: { readonly over: number; readonly from: number } | undefined
}

/** The right to one call. It belongs to the generation that it was given in. */
export interface Permit {
  readonly generation: number
  /** When a probe's lease ends, by the machine's own time; undefined for any other call. */
  leaseUntil: number | undefined
  /** From when on the call counts as slow or not; set again by whoever has waited between the permit and the call. */
  startedAt: number
  settled: boolean
}

/** How a call went, as far as the breaker minds. */
export type Outcome = "success" | "failure" | "neutral"

/** Overrides the state machine. */
export type Mode = "automatic" | "forced-open" | "disabled" | "metrics-only"

/** Counters since the breaker was made. */
export interface Counters {
  successes: number
  failures: number
  neutral: number
  slow: number
  rejected: number
  /** Calls that metrics-only let pass though they would have been refused. */
  wouldReject: number
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

/** All that can be seen of it, as data; moments in milliseconds since 1970. */
export interface Snapshot {
  readonly at: number
  readonly state: State
  readonly wouldBe: State
  readonly mode: Mode
  readonly override: Mode | null
  readonly generation: number
  readonly calls: number
  readonly failures: number
  readonly failureRate: number | null
  readonly slow: number
  readonly slowRate: number | null
  readonly inFlight: number
  readonly probesInFlight: number
  readonly openings: number
  readonly openedAt: number | null
  readonly openUntil: number | null
  readonly rampShare: number
  readonly rampUntil: number | null
  readonly window: window.WindowContent
  readonly counters: Readonly<Counters>
}

/** Who keeps many breakers and wants to hear of each without a listener for each. */
export interface Owner {
  /** Whether it has let go of the breaker, and wants to hear that it is used again before that shows any effect. */
  readonly away: boolean
  readonly called: (now: number) => void
  /** Whether it may be let go of has perhaps changed. */
  readonly placed: () => void
  readonly changed: (change: Change) => void
}

/** A rejection in half-open says this, in milliseconds: the probe's answer may come at any moment. */
const halfOpenHint = 1_000

/** What a function of the user's that gives no time is replaced with. */
const defaultOpenFor = 30_000

/** Shares are counted in whole numbers, so that a thousand small ones add up. */
const whole = 1_000_000

/** The generation of calls that pass without a part in the state. */
const apart = -1

class Open {
  readonly until: number
  readonly length: number

  constructor(until: number, length: number) {
    this.until = until
    this.length = length
  }
}

class HalfOpen {
  readonly since: number
  readonly probes: Array<Permit> = []
  successes = 0
  failures = 0

  constructor(since: number) {
    this.since = since
  }
}

/** Closed, and not yet open to all. */
class Ramp {
  until: number
  credit: number

  constructor(until: number, from: number) {
    this.until = until
    // The first call passes.
    this.credit = whole - Math.round(from * whole)
  }
}

interface Override {
  readonly mode: Mode
  readonly until: number
  readonly holds: boolean
}

/** Undefined is closed: most breakers are, and keep nothing for it. */
type Phase = Open | HalfOpen | Ramp | undefined

export class Breaker<Own extends Settings = Settings> {
  settings: Own
  /** As set here; an override from elsewhere goes before it. */
  mode: Mode = "automatic"
  /** Grows with every change of state: what was permitted before cannot change what is now. */
  generation = 0
  /** Calls that are permitted and have not ended. */
  inFlight = 0
  owner: Owner | undefined = undefined
  readonly counters: Counters = {
    successes: 0,
    failures: 0,
    neutral: 0,
    slow: 0,
    rejected: 0,
    wouldReject: 0,
    stale: 0,
    leasesLost: 0,
    opened: 0
  }
  private phase: Phase = undefined
  /** How often it opened since it was last wholly closed. */
  private openings = 0
  private consecutive = 0
  private window: CountWindow | TimeWindow | undefined = undefined
  private override: Override | undefined = undefined
  private heard: Set<(change: Change) => void> | undefined = undefined
  /** The last time by the clock, and what its steps back add up to. */
  private last = 0
  private skew = 0

  constructor(settings: Own) {
    this.settings = settings
  }

  /** Told of every change of state. */
  get listeners(): Set<(change: Change) => void> {
    this.heard ??= new Set()
    return this.heard
  }

  /** The state at this moment; an open breaker whose time is over is half-open. */
  state(now: number): State {
    const time = this.tick(now)
    const mode = this.effective(time, now)
    return this.shown(mode, time, now)
  }

  /** Calls that are permitted and have not ended, as far as they hold a place: the probes. */
  probesInFlight(now: number): number {
    if (!(this.phase instanceof HalfOpen)) return 0
    this.loseLeases(this.phase, this.tick(now))
    return this.phase.probes.length
  }

  /** Failures in a row, or in the window as it was last used. */
  get failures(): number {
    return this.window === undefined ? this.consecutive : this.window.failures
  }

  /** Whether somebody has said by hand what it is to do. */
  get isForced(): boolean {
    return this.mode !== "automatic" || this.override?.holds === true
  }

  /** Whether it is closed and open to all, as it was when last looked at. */
  get isResting(): boolean {
    return this.phase === undefined
  }

  /** Of one without calls that nobody forces: whether nothing would be missed without it. It is closed, or has waited in vain for a probe for `after` milliseconds. */
  isForgettable(now: number, after: number): boolean {
    const { phase } = this
    const time = this.tick(now)
    if (phase === undefined) return true
    if (phase instanceof Ramp) return time >= phase.until
    return time - (phase instanceof Open ? phase.until : phase.since) >= after
  }

  /**
   * For how many milliseconds a call is refused, where that takes one look: it is open, or held open here. Counted as a
   * refusal. Otherwise undefined, and `acquire` says.
   */
  refuses(now: number): number | undefined {
    const { mode, phase } = this
    if (this.owner?.away === true || this.override !== undefined) return undefined
    const forced = mode === "forced-open"
    if (!forced && !(mode === "automatic" && phase instanceof Open)) return undefined
    // Also where it makes no difference now: what a clock steps back later is reckoned from here.
    const time = this.tick(now)
    const left = !forced && phase instanceof Open ? phase.until - time : Number.POSITIVE_INFINITY
    if (left <= 0) return undefined
    this.counters.rejected++
    return left
  }

  /** A permit, or for how many milliseconds there is none (infinite if until somebody says otherwise). */
  acquire(now: number): Permit | number {
    this.recall(now)
    const time = this.tick(now)
    const mode = this.override === undefined ? this.mode : this.effective(time, now)
    let given: Permit | number
    if (mode === "automatic") {
      given = this.admit(time, now)
    } else if (mode === "metrics-only") {
      given = this.admit(time, now)
      if (typeof given === "number") {
        this.counters.wouldReject++
        given = pass(apart, undefined, now)
      }
    } else if (mode === "disabled") {
      given = pass(apart, undefined, now)
    } else {
      given = this.override === undefined ? Number.POSITIVE_INFINITY : this.override.until - time
    }
    if (typeof given === "number") {
      this.counters.rejected++
      return given
    }
    this.inFlight++
    if (this.inFlight === 1) this.owner?.placed()
    return given
  }

  /**
   * Gives a permit back. Only the first time counts. `retryAfter` is for how many milliseconds the service asks not to be
   * called.
   */
  settle(permit: Permit, outcome: Outcome, now: number, retryAfter = 0): void {
    if (permit.settled) return
    permit.settled = true
    const time = this.tick(now)
    const slow = outcome !== "neutral" && now - permit.startedAt > this.settings.slowAfter
    if (outcome === "success") this.counters.successes++
    else if (outcome === "failure") this.counters.failures++
    else this.counters.neutral++
    if (slow) this.counters.slow++
    this.inFlight--
    if (permit.generation !== apart) this.judge(permit, outcome, slow, time, now, retryAfter)
    if (this.inFlight === 0) this.owner?.placed()
  }

  /**
   * The call has shown that the service answers, though it goes on: how slow it is, is known now. A probe is judged, and
   * the permit that is returned is that of the rest of the call: it belongs to the state that the probe led to, or to none
   * where the probe came too late to lead to any.
   */
  progressed(permit: Permit, now: number): Permit {
    if (permit.settled) return permit
    const slow = now - permit.startedAt > this.settings.slowAfter
    const known = slow ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY
    if (permit.leaseUntil === undefined) {
      permit.startedAt = known
      return permit
    }
    const late = !this.isCurrent(permit)
    permit.settled = true
    this.judge(permit, "success", slow, this.tick(now), now, 0)
    return pass(late ? apart : this.generation, undefined, known)
  }

  /** Whether the call may still be made with this permit: nothing has changed since that would refuse it or count it otherwise. */
  isCurrent(permit: Permit): boolean {
    if (permit.settled) return false
    if (permit.generation === apart) {
      const mode = this.override === undefined ? this.mode : this.override.mode
      return mode === "disabled" || mode === "metrics-only"
    }
    if (permit.generation !== this.generation) return false
    return this.phase instanceof HalfOpen ? this.phase.probes.includes(permit) : !(this.phase instanceof Open)
  }

  setMode(mode: Mode, now: number): void {
    this.recall(now)
    if (mode === this.mode) return
    const time = this.tick(now)
    const was = this.effective(time, now)
    const before = this.shown(was, time, now)
    this.mode = mode
    const is = this.override === undefined ? mode : this.override.mode
    if (is !== was) this.renew(was, before, is, time, now)
    this.owner?.placed()
  }

  /**
   * Puts an override before the mode for that many milliseconds, or takes it away. One that does not hold says the same of
   * many breakers and is no reason to keep this one.
   */
  setOverride(
    override: { readonly mode: Mode; readonly millis: number; readonly holds: boolean } | undefined,
    now: number
  ): void {
    if (override === undefined && this.override === undefined) return
    const time = this.tick(now)
    const was = this.effective(time, now)
    const before = this.shown(was, time, now)
    this.override =
      override === undefined ? undefined : { mode: override.mode, until: time + override.millis, holds: override.holds }
    const is = override === undefined ? this.mode : override.mode
    if (is !== was) this.renew(was, before, is, time, now)
    this.owner?.placed()
  }

  reset(now: number): void {
    const before = this.state(now)
    this.mode = "automatic"
    this.forget()
    this.phase = undefined
    this.generation++
    const after = this.state(now)
    if (before !== after) this.notify({ from: before, to: after, at: now })
    this.owner?.placed()
  }

  /**
   * Other settings from now on. Results are kept as far as the new window can hold them; state and calls stay, but what
   * is under way lasts no longer from now on than the new settings say.
   */
  reload(settings: Own, now: number): void {
    const time = this.tick(now)
    this.state(now)
    this.settings = settings
    this.carry(settings.window)
    this.shorten(time)
    // Fewer probes may be enough now.
    if (this.phase instanceof HalfOpen) this.decide(this.phase, time, now, 0)
  }

  snapshot(now: number): Snapshot {
    const state = this.state(now)
    const time = now + this.skew
    const wouldBe = this.look(time, now)
    const { phase, window } = this
    if (window instanceof TimeWindow) window.advance(time)
    const calls = window === undefined ? this.consecutive : window.calls
    const slow = window === undefined ? 0 : window.slow
    const { failures } = this
    const rated = window !== undefined && calls > 0
    return {
      at: now,
      state,
      wouldBe,
      mode: this.mode,
      override: this.override === undefined ? null : this.override.mode,
      generation: this.generation,
      calls,
      failures,
      failureRate: rated ? failures / calls : null,
      slow,
      slowRate: rated ? slow / calls : null,
      inFlight: this.inFlight,
      probesInFlight: this.probesInFlight(now),
      openings: this.openings,
      openedAt: phase instanceof Open ? phase.until - phase.length - this.skew : null,
      openUntil: phase instanceof Open ? phase.until - this.skew : null,
      rampShare: phase instanceof Ramp ? this.share(phase, time) / whole : 1,
      rampUntil: phase instanceof Ramp ? phase.until - this.skew : null,
      window: this.content(),
      counters: { ...this.counters }
    }
  }

  /** Goes on where the snapshot was taken; what was open is so for what is left of its time. */
  restore(snapshot: Snapshot, now: number): void {
    this.recall(now)
    const before = this.state(now)
    const time = now + this.skew
    this.mode = snapshot.mode
    this.forget()
    this.generation++
    Object.assign(this.counters, snapshot.counters)
    this.openings = snapshot.openings
    this.fill(snapshot.window)
    this.phase = this.restored(snapshot, time, now)
    // Of a ramp that there is no more: it is wholly closed.
    if (this.phase === undefined) this.openings = 0
    const after = this.state(now)
    if (before !== after) this.notify({ from: before, to: after, at: now })
    this.owner?.placed()
  }

  private recall(now: number): void {
    if (this.owner?.away === true) this.owner.called(now)
  }

  /** The machine's own time. */
  private tick(now: number): number {
    if (now < this.last) this.skew += this.last - now
    this.last = now
    return now + this.skew
  }

  /** The mode that holds now; an override whose time is over is gone. */
  private effective(time: number, now: number): Mode {
    const { override } = this
    if (override === undefined) return this.mode
    if (time < override.until) return override.mode
    this.override = undefined
    if (this.mode !== override.mode) {
      // An override is never `automatic`, so that what it showed does not depend on the time.
      this.renew(override.mode, override.mode === "forced-open" ? "open" : "closed", this.mode, time, now)
    }
    this.owner?.placed()
    return this.mode
  }

  private shown(mode: Mode, time: number, now: number): State {
    if (mode === "forced-open") return "open"
    const found = this.look(time, now)
    return mode === "automatic" ? found : "closed"
  }

  /** What the results and the time alone make of it. */
  private look(time: number, now: number): State {
    const { phase } = this
    if (phase === undefined) return "closed"
    if (phase instanceof HalfOpen) return "half-open"
    if (phase instanceof Ramp) {
      if (time >= phase.until) {
        this.phase = undefined
        this.openings = 0
      }
      return "closed"
    }
    if (time < phase.until) return "open"
    this.change(new HalfOpen(phase.until), "open", now)
    // A listener may have said otherwise.
    return stateOf(this.phase)
  }

  private admit(time: number, now: number): Permit | number {
    if (this.phase === undefined) return pass(this.generation, undefined, now)
    this.look(time, now)
    const { phase } = this
    if (phase === undefined) return pass(this.generation, undefined, now)
    if (phase instanceof Open) return phase.until - time
    if (phase instanceof Ramp) {
      phase.credit += this.share(phase, time)
      if (phase.credit < whole) return Math.max(1, Math.min(halfOpenHint, phase.until - time))
      phase.credit -= whole
      return pass(this.generation, undefined, now)
    }
    this.loseLeases(phase, time)
    if (phase.probes.length + phase.successes + phase.failures >= this.settings.halfOpenPermits) {
      let hint = halfOpenHint
      for (const probe of phase.probes) hint = Math.min(hint, (probe.leaseUntil ?? time) - time)
      return Math.max(1, hint)
    }
    const permit = pass(this.generation, time + this.settings.lease, now)
    phase.probes.push(permit)
    return permit
  }

  private judge(permit: Permit, outcome: Outcome, slow: boolean, time: number, now: number, retryAfter: number): void {
    const { phase } = this
    if (permit.generation !== this.generation || phase instanceof Open) {
      this.counters.stale++
      return
    }
    if (!(phase instanceof HalfOpen)) {
      this.result(outcome, slow, time, now, retryAfter)
      return
    }
    const index = phase.probes.indexOf(permit)
    if (index === -1) {
      // Its lease was lost: another probe has its place.
      this.counters.stale++
      return
    }
    phase.probes.splice(index, 1)
    if (outcome === "neutral") return
    if (outcome === "success" && !(slow && this.settings.slowRate !== undefined)) phase.successes++
    else phase.failures++
    this.decide(phase, time, now, retryAfter)
  }

  private result(outcome: Outcome, slow: boolean, time: number, now: number, retryAfter: number): void {
    if (outcome === "neutral") return
    const failed = outcome === "failure"
    const { slowRate, window: settings } = this.settings
    if (settings.type === "consecutive") {
      this.consecutive = failed ? this.consecutive + 1 : 0
      if (failed && this.consecutive >= settings.failures) this.open(time, now, retryAfter)
      return
    }
    const window = this.results(settings, time)
    window.push(failed, slow)
    if (window.calls < settings.minimumCalls) return
    if (
      (failed && reaches(window.failures, window.calls, settings.failureRate)) ||
      (slow && slowRate !== undefined && reaches(window.slow, window.calls, slowRate))
    ) {
      this.open(time, now, retryAfter)
    }
  }

  private results(
    settings: Exclude<WindowSettings, { readonly type: "consecutive" }>,
    time: number
  ): CountWindow | TimeWindow {
    if (settings.type === "count") {
      const window = this.window instanceof CountWindow ? this.window : new CountWindow(settings.size)
      this.window = window
      return window
    }
    const window =
      this.window instanceof TimeWindow ? this.window : new TimeWindow(settings.over, settings.buckets, time)
    this.window = window
    window.advance(time)
    return window
  }

  private decide(phase: HalfOpen, time: number, now: number, retryAfter: number): void {
    const { halfOpenPermits: permits, halfOpenSuccessRate: rate, ramp } = this.settings
    const needed = least(permits, rate)
    if (phase.successes >= needed) {
      const { openings } = this
      this.forget()
      // As long as not every call passes it has not wholly closed: an opening then is one more in a row.
      if (ramp !== undefined) this.openings = openings
      this.change(ramp === undefined ? undefined : new Ramp(time + ramp.over, ramp.from), "half-open", now)
    } else if (permits - phase.failures < needed) {
      this.open(time, now, retryAfter)
    }
  }

  private loseLeases(phase: HalfOpen, time: number): void {
    for (let index = phase.probes.length - 1; index >= 0; index--) {
      if ((phase.probes[index]?.leaseUntil ?? time) <= time) {
        phase.probes.splice(index, 1)
        this.counters.leasesLost++
      }
    }
  }

  private open(time: number, now: number, retryAfter: number): void {
    const { phase, settings } = this
    if (phase instanceof Ramp && time >= phase.until) this.openings = 0
    this.openings++
    this.counters.opened++
    const length = Math.max(jittered(settings, openMillis(settings, this.openings)), capped(settings, retryAfter))
    this.change(new Open(time + length, length), stateOf(phase), now)
  }

  private change(phase: Phase, from: State, now: number): void {
    this.phase = phase
    this.generation++
    const mode = this.override === undefined ? this.mode : this.override.mode
    // Metrics-only changes what it would do, not what it does.
    if (mode === "automatic") this.notify({ from, to: stateOf(phase), at: now })
    this.owner?.placed()
  }

  /** Another mode: no probe and no result of before has a part in what comes. */
  private renew(was: Mode, before: State, is: Mode, time: number, now: number): void {
    const { ramp } = this.settings
    this.forget()
    // Whoever was kept out comes back slowly, as after closing.
    this.phase =
      ramp !== undefined && was === "forced-open" && is !== "disabled"
        ? new Ramp(time + ramp.over, ramp.from)
        : undefined
    this.generation++
    const after: State = is === "forced-open" ? "open" : "closed"
    if (before !== after) this.notify({ from: before, to: after, at: now })
  }

  private forget(): void {
    this.openings = 0
    this.consecutive = 0
    this.window = undefined
  }

  /** The share of the calls that pass, of `whole`, while its time is not over. */
  private share(phase: Ramp, time: number): number {
    const { ramp } = this.settings
    if (ramp === undefined) return whole
    const left = Math.min(1, (phase.until - time) / ramp.over)
    return Math.round((1 - (1 - ramp.from) * left) * whole)
  }

  private content(): window.WindowContent {
    const { window } = this
    const { window: settings } = this.settings
    if (settings.type === "consecutive") return { type: "consecutive", failures: this.consecutive }
    if (settings.type === "count") {
      return { type: "count", results: window instanceof CountWindow ? window.content() : "" }
    }
    return window instanceof TimeWindow
      ? { type: "time", over: settings.over, buckets: window.content(), since: window.since - this.skew }
      : { type: "time", over: settings.over, buckets: [], since: this.last }
  }

  private fill(content: window.WindowContent): void {
    const { window: settings } = this.settings
    if (settings.type === "consecutive" && content.type === "consecutive") {
      this.consecutive = content.failures
    } else if (settings.type === "count" && content.type === "count" && content.results.length > 0) {
      this.window = CountWindow.from(settings.size, content.results)
    } else if (
      settings.type === "time" &&
      content.type === "time" &&
      content.over === settings.over &&
      content.buckets.length === settings.buckets
    ) {
      this.window = TimeWindow.from(settings.over, content.buckets, content.since + this.skew, this.last + this.skew)
    }
  }

  private carry(settings: WindowSettings): void {
    const { window } = this
    if (settings.type === "count" && window instanceof CountWindow) {
      if (window.size !== settings.size) this.window = CountWindow.from(settings.size, window.content())
      return
    }
    if (settings.type === "time" && window instanceof TimeWindow) {
      if (window.over === settings.over && window.count === settings.buckets) return
    }
    this.window = undefined
    if (settings.type !== "consecutive") this.consecutive = 0
  }

  private shorten(time: number): void {
    const { phase, settings } = this
    if (phase instanceof Open) {
      const less = phase.until - time - longest(settings, this.openings)
      if (less > 0) this.phase = new Open(phase.until - less, phase.length - less)
    } else if (phase instanceof HalfOpen) {
      for (const probe of phase.probes) {
        probe.leaseUntil = Math.min(probe.leaseUntil ?? time, time + settings.lease)
      }
    } else if (phase instanceof Ramp) {
      phase.until = Math.min(phase.until, time + (settings.ramp?.over ?? 0))
    }
  }

  private restored(snapshot: Snapshot, time: number, now: number): Phase {
    const { ramp } = this.settings
    if (snapshot.wouldBe === "half-open") return new HalfOpen(time)
    if (snapshot.wouldBe === "open") {
      const until = snapshot.openUntil ?? now
      const length = Math.min(until - (snapshot.openedAt ?? now), longest(this.settings, this.openings))
      return new Open(time + Math.max(0, Math.min(until - now, length)), length)
    }
    const left = (snapshot.rampUntil ?? now) - now
    // One that is over ends as soon as it is looked at.
    return ramp === undefined ? undefined : new Ramp(time + Math.min(ramp.over, left), ramp.from)
  }

  private notify(change: Change): void {
    this.owner?.changed(change)
    if (this.heard === undefined) return
    for (const listener of this.heard) {
      try {
        listener(change)
      } catch {
        // Whoever listens has no part in the call that is under way.
      }
    }
  }
}

const stateOf = (phase: Phase): State =>
  phase instanceof Open ? "open" : phase instanceof HalfOpen ? "half-open" : "closed"

const pass = (generation: number, leaseUntil: number | undefined, startedAt: number): Permit => ({
  generation,
  leaseUntil,
  startedAt,
  settled: false
})

/** How long it is open at most by its own settings. */
const openMillis = ({ openFor }: Settings, openings: number): number => {
  if (typeof openFor === "number") return openFor
  if (typeof openFor === "object") {
    return Math.min(openFor.max, openFor.initial * openFor.factor ** Math.max(0, openings - 1))
  }
  try {
    const given = openFor(openings)
    // What is negative or no number would be no time at all to `Duration`, and the circuit never open.
    const millis = typeof given === "number" ? given : Duration.toMillis(given)
    return millis >= 0 && millis < Number.POSITIVE_INFINITY ? millis : defaultOpenFor
  } catch {
    return defaultOpenFor
  }
}

/** How long it is open at most, the service's own wish included. */
const longest = (settings: Settings, openings: number): number =>
  Math.max(openMillis(settings, openings), settings.retryAfterCap)

const jittered = (settings: Settings, millis: number): number => {
  if (settings.jitter === 0) return millis
  return Math.round(millis * (1 - settings.jitter * drawn(settings)))
}

const drawn = ({ random }: Settings): number => {
  try {
    const found = random()
    return found >= 0 && found <= 1 ? found : 0
  } catch {
    return 0
  }
}

const capped = (settings: Settings, retryAfter: number): number =>
  retryAfter > 0 ? Math.min(retryAfter, settings.retryAfterCap) : 0
