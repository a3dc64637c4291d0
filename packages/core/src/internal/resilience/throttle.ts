/**
 * The state machine of client-side throttling: how many calls were made and how many the service accepted, in a window
 * that moves on in parts. No timer: what is too old is forgotten when somebody looks. `Throttle` is the interface to it.
 */
import { Elapsed } from "./elapsed.ts"

/** Settings, durations in milliseconds. */
export interface Settings {
  readonly ratio: number
  readonly window: number
  readonly minimumCalls: number
  readonly maxProbability: number
}

/** The window moves on by this part of itself. */
export const parts = 60

export class Throttle {
  settings: Settings
  /** Within the window. Own refusals are requests as well. */
  requests = 0
  accepts = 0
  /** Calls that were refused since it was made. */
  rejected = 0
  private readonly elapsed = new Elapsed()
  private readonly requested = new Uint32Array(parts)
  private readonly accepted = new Uint32Array(parts)
  /** The part that is counted in now, from the beginning of time. */
  private part = 0

  constructor(settings: Settings) {
    this.settings = settings
  }

  /** Zero if the call may be made, else the probability that it was refused with. */
  admit(now: number, random: () => number): number {
    const probability = this.probability(now)
    if (probability === 0 || random() >= probability) return 0
    this.rejected++
    this.count(false)
    return probability
  }

  /** What became of a call that was made. Until then it counts for nothing: a slow answer is no refusal. */
  record(now: number, accepted: boolean): void {
    this.advance(now)
    this.count(accepted)
  }

  /** The probability that a call is refused now. */
  probability(now: number): number {
    this.advance(now)
    const { maxProbability, minimumCalls, ratio } = this.settings
    if (this.requests < minimumCalls) return 0
    return Math.min(maxProbability, Math.max(0, (this.requests - ratio * this.accepts) / (this.requests + 1)))
  }

  /** Changes the settings. A window of another length starts with what was counted, as if it had just been. */
  reload(settings: Settings, now: number): void {
    this.advance(now)
    const { accepts, requests } = this
    const resized = settings.window !== this.settings.window
    this.settings = settings
    if (!resized) return
    this.requested.fill(0)
    this.accepted.fill(0)
    this.part = this.partAt(now)
    this.requested[this.part % parts] = requests
    this.accepted[this.part % parts] = accepts
  }

  private count(accepted: boolean): void {
    const index = this.part % parts
    this.requested[index] = (this.requested[index] ?? 0) + 1
    this.requests++
    if (!accepted) return
    this.accepted[index] = (this.accepted[index] ?? 0) + 1
    this.accepts++
  }

  private advance(now: number): void {
    const part = this.partAt(now)
    const passed = Math.min(parts, part - this.part)
    for (let i = 0; i < passed; i++) {
      const index = (part - i) % parts
      this.requests -= this.requested[index] ?? 0
      this.accepts -= this.accepted[index] ?? 0
      this.requested[index] = 0
      this.accepted[index] = 0
    }
    this.part = part
  }

  private partAt(now: number): number {
    return Math.floor((this.elapsed.at(now) * parts) / this.settings.window)
  }
}
