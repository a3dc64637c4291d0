/**
 * When a hedge starts: after a fixed time, or after a percentile of the recent latencies.
 */
import { LatencyQuantile } from "./latencyQuantile.ts"

/** The delay; all times in milliseconds. */
export type DelaySettings =
  | { readonly type: "fixed"; readonly millis: number }
  | {
      readonly type: "percentile"
      readonly percentile: number
      readonly initial: number
      readonly min: number
      readonly max: number
      readonly minimumSamples: number
      readonly halfLife: number
    }

export interface Settings {
  readonly maxHedges: number
  readonly delay: DelaySettings
}

/** What the pipeline asks and tells. */
export class HedgeDelay {
  private settings: Settings
  private quantile: LatencyQuantile | undefined = undefined

  constructor(settings: Settings) {
    this.settings = settings
  }

  get maxHedges(): number {
    return this.settings.maxHedges
  }

  /** For how many milliseconds the attempts that run are given before the next one. */
  delay(now: number): number {
    const { delay } = this.settings
    if (delay.type === "fixed") return delay.millis
    const { quantile } = this
    const known =
      quantile !== undefined && quantile.samples(now) >= delay.minimumSamples ? quantile.estimate() : undefined
    return Math.min(delay.max, Math.max(delay.min, known ?? delay.initial))
  }

  /**
   * An attempt took this long. One that was interrupted because another had won is to be told too, with the time that it
   * had had: without it the slow ones would never be seen, and the percentile, and the delay with it, would sink.
   */
  record(now: number, millis: number): void {
    const { delay } = this.settings
    if (delay.type === "fixed") return
    this.quantile ??= new LatencyQuantile(delay.percentile, delay.halfLife)
    this.quantile.record(now, millis)
  }

  /** How many latencies the percentile is taken from, old ones counting less. */
  samples(now: number): number {
    return this.quantile === undefined ? 0 : this.quantile.samples(now)
  }

  /** Other settings; the latencies are kept where a percentile is still asked for. */
  reload(settings: Settings): void {
    this.settings = settings
    if (settings.delay.type === "fixed") this.quantile = undefined
    else this.quantile?.reload(settings.delay.percentile, settings.delay.halfLife)
  }
}
