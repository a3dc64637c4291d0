/**
 * The state machines of retry budgets: what calls and successes pay in and what retries and hedges take out, in whole
 * numbers. No timer. `RetryBudget` is the interface to them.
 */
import type * as ErrorClass from "../../resilience/ErrorClass.ts"
import { Elapsed } from "./elapsed.ts"
import * as ratio from "./ratio.ts"

/** Settings, durations in milliseconds. */
export type Settings =
  | { readonly type: "percentage"; readonly ratio: number; readonly minPerSecond: number; readonly ttl: number }
  | { readonly type: "grpc"; readonly maxTokens: number; readonly tokenRatio: number }
  | {
      readonly type: "aws"
      readonly capacity: number
      readonly retryCost: number
      readonly timeoutCost: number
      readonly throttlingCost: number
      readonly successIncrement: number
    }

/** One way to keep a budget. */
interface Account {
  /** How much is left, in the unit of its kind: retries, or tokens. */
  available(at: number): number
  called(at: number): void
  succeeded(at: number, taken: number): void
  failed(at: number, found: ErrorClass.Classification): void
  take(at: number, cost: Cost): number
}

/** What another attempt is made for. */
type Cost = "retry" | "timeout" | "throttling"

/** What is paid in and taken out counts for the time to live, and is forgotten in parts of this many. */
const parts = 10

/**
 * A call pays in, a retry takes out, and both are forgotten after the time to live; what is allowed at least is a reserve
 * that is always there. A retry costs `price` and a call brings `deposit`, which are whole numbers in the proportion of
 * the ratio.
 */
class Percentage implements Account {
  private readonly ttl: number
  private readonly deposit: number
  private readonly price: number
  private readonly reserve: number
  /** Paid in less taken out, by parts of the time to live, and all of it. */
  private readonly sums = new Float64Array(parts)
  private sum = 0
  private part = 0

  constructor(settings: Extract<Settings, { readonly type: "percentage" }>) {
    const [deposit, price] = ratio.of(settings.ratio)
    this.ttl = settings.ttl
    this.deposit = deposit
    this.price = price
    this.reserve = Math.floor((settings.minPerSecond * settings.ttl * price) / 1000)
  }

  available(at: number): number {
    this.advance(at)
    return Math.max(0, Math.floor((this.reserve + this.sum) / this.price))
  }

  called(at: number): void {
    this.advance(at)
    this.add(this.deposit)
  }

  succeeded(): void {}

  failed(): void {}

  take(at: number): number {
    this.advance(at)
    if (this.reserve + this.sum < this.price) return 0
    this.add(-this.price)
    return 1
  }

  /** Keeps what was paid in and taken out, as if by the settings of now. */
  adopt(other: Percentage, at: number): void {
    other.advance(at)
    this.part = Math.floor((at * parts) / this.ttl)
    const retries = other.sum / other.price
    this.add(Math.floor(retries * this.price))
  }

  private add(amount: number): void {
    const index = this.part % parts
    this.sums[index] = (this.sums[index] ?? 0) + amount
    this.sum += amount
  }

  private advance(at: number): void {
    const part = Math.floor((at * parts) / this.ttl)
    const passed = Math.min(parts, part - this.part)
    for (let i = 0; i < passed; i++) {
      const index = (part - i) % parts
      this.sum -= this.sums[index] ?? 0
      this.sums[index] = 0
    }
    this.part = part
  }
}

/** gRPC's tokens, in thousandths as its proposal has it: failures take one, successes bring the ratio. */
class Grpc implements Account {
  private readonly max: number
  private readonly ratio: number
  private tokens: number

  constructor(settings: Extract<Settings, { readonly type: "grpc" }>, filled: number) {
    this.max = Math.round(settings.maxTokens * 1000)
    this.ratio = Math.round(settings.tokenRatio * 1000)
    this.tokens = Math.round(this.max * filled)
  }

  available(): number {
    return this.tokens / 1000
  }

  get filled(): number {
    return this.tokens / this.max
  }

  called(): void {}

  succeeded(): void {
    this.tokens = Math.min(this.max, this.tokens + this.ratio)
  }

  failed(_at: number, found: ErrorClass.Classification): void {
    if (found.class === "transient" || found.class === "rate-limited") this.tokens = Math.max(0, this.tokens - 1000)
  }

  /** Nothing is taken here: the failure that it answers was. */
  take(): number {
    return this.tokens * 2 > this.max ? 1 : 0
  }
}

/** The retry quota of the AWS SDKs: each retry takes its cost, which a success gives back. */
class Aws implements Account {
  private readonly settings: Extract<Settings, { readonly type: "aws" }>
  private tokens: number

  constructor(settings: Extract<Settings, { readonly type: "aws" }>, tokens: number) {
    this.settings = settings
    this.tokens = Math.min(settings.capacity, tokens)
  }

  available(): number {
    return this.tokens
  }

  called(): void {}

  succeeded(_at: number, taken: number): void {
    const given = taken > 0 ? taken : this.settings.successIncrement
    this.tokens = Math.min(this.settings.capacity, this.tokens + given)
  }

  failed(): void {}

  take(_at: number, kind: Cost): number {
    const { retryCost, throttlingCost, timeoutCost } = this.settings
    const cost = kind === "timeout" ? timeoutCost : kind === "throttling" ? throttlingCost : retryCost
    if (this.tokens < cost) return 0
    this.tokens -= cost
    return cost
  }
}

const account = (settings: Settings, before: Account | undefined, at: number): Account => {
  switch (settings.type) {
    case "percentage": {
      const made = new Percentage(settings)
      if (before instanceof Percentage) made.adopt(before, at)
      return made
    }
    case "grpc":
      return new Grpc(settings, before instanceof Grpc ? before.filled : 1)
    case "aws":
      return new Aws(settings, before instanceof Aws ? before.available() : settings.capacity)
  }
}

export class RetryBudget {
  settings: Settings
  /** Attempts that were allowed and refused since it was made. */
  taken = 0
  refused = 0
  private readonly elapsed = new Elapsed()
  private account: Account
  private readonly isTimeout: (error: unknown) => boolean

  constructor(settings: Settings, isTimeout: (error: unknown) => boolean) {
    this.settings = settings
    this.isTimeout = isTimeout
    this.account = account(settings, undefined, 0)
  }

  available(now: number): number {
    return this.account.available(this.elapsed.at(now))
  }

  /** A call, not an attempt, begins. */
  called(now: number): void {
    this.account.called(this.elapsed.at(now))
  }

  /** An attempt succeeded, for which so much had been taken: nothing for the first of a call. */
  succeeded(now: number, taken: number): void {
    this.account.succeeded(this.elapsed.at(now), taken)
  }

  /** An attempt failed. Refusals of our own say nothing of the service. */
  failed(now: number, found: ErrorClass.Classification): void {
    if (found.rejection !== true) this.account.failed(this.elapsed.at(now), found)
  }

  /**
   * Takes what another attempt costs: how much that was, or 0 if there is too little. `found` and `error` are what the
   * attempt before it failed with; without them it is a hedge, which costs what a retry does.
   */
  take(now: number, found: ErrorClass.Classification | undefined, error?: unknown): number {
    const cost: Cost = found?.class === "rate-limited" ? "throttling" : this.isTimeout(error) ? "timeout" : "retry"
    const taken = this.account.take(this.elapsed.at(now), cost)
    if (taken > 0) this.taken++
    else this.refused++
    return taken
  }

  /** Changes the settings and keeps what is left; another kind of budget starts full. */
  reload(settings: Settings, now: number): void {
    this.account = account(settings, this.account, this.elapsed.at(now))
    this.settings = settings
  }
}
