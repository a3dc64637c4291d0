/**
 * What a circuit breaker remembers of the calls that ended: a ring of single results, or a ring of time. Both are made
 * with the first result, count in whole numbers and answer at once.
 */

/** What counts for opening: failures in a row, or rates among the last `size` results or those of the last `over` milliseconds. */
export type WindowSettings =
  | { readonly type: "consecutive"; readonly failures: number }
  | { readonly type: "count"; readonly size: number; readonly failureRate: number; readonly minimumCalls: number }
  | {
      readonly type: "time"
      readonly over: number
      readonly buckets: number
      readonly failureRate: number
      readonly minimumCalls: number
    }

/** Calls, failures and slow calls in a stretch of time. */
export type Bucket = readonly [calls: number, failures: number, slow: number]

/** What a window holds, as data. `results`: a digit a call, the oldest first: 1 for a failure, plus 2 for a slow one. */
export type WindowContent =
  | { readonly type: "consecutive"; readonly failures: number }
  | { readonly type: "count"; readonly results: string }
  | {
      readonly type: "time"
      readonly over: number
      /** The oldest first; the last one is that which began at `since`, milliseconds since 1970. */
      readonly buckets: ReadonlyArray<Bucket>
      readonly since: number
    }

/**
 * Both counts are whole, so two different ratios are never as near to each other as the error of a rate that was computed
 * (0.1 + 0.2, 2 / 3) is to what was meant.
 */
const error = 1e-12

/** Whether `part` of `total` is at least `rate`. */
export const reaches = (part: number, total: number, rate: number): boolean => part / total >= rate - error

/** The smallest whole number of at least 1 that is `rate` of `total`. */
export const least = (total: number, rate: number): number => Math.max(1, Math.ceil(total * (rate - error)))

/** The last `size` results. */
export class CountWindow {
  calls = 0
  failures = 0
  slow = 0
  private next = 0
  private readonly results: Uint8Array

  constructor(size: number) {
    this.results = new Uint8Array(size)
  }

  get size(): number {
    return this.results.length
  }

  push(failed: boolean, slow: boolean): void {
    if (this.calls === this.results.length) {
      const oldest = this.results[this.next] ?? 0
      this.failures -= oldest & 1
      this.slow -= oldest >> 1
    } else {
      this.calls++
    }
    this.results[this.next] = (failed ? 1 : 0) | (slow ? 2 : 0)
    if (failed) this.failures++
    if (slow) this.slow++
    this.next = this.next + 1 === this.results.length ? 0 : this.next + 1
  }

  content(): string {
    let digits = ""
    const { length } = this.results
    for (let back = this.calls; back > 0; back--) digits += this.results[(this.next - back + length) % length]
    return digits
  }

  static from(size: number, content: string): CountWindow {
    const window = new CountWindow(size)
    for (const digit of content) window.push((Number(digit) & 1) === 1, Number(digit) >= 2)
    return window
  }
}

/** The results of the last `over` milliseconds, in a ring of `count` buckets. Time is given and never goes back. */
export class TimeWindow {
  calls = 0
  failures = 0
  slow = 0
  readonly over: number
  readonly count: number
  /** The number of the newest bucket. */
  private head: number
  /** Three numbers a bucket: calls, failures, slow. */
  private readonly cells: Uint32Array

  constructor(over: number, count: number, time: number) {
    this.over = over
    this.count = count
    this.cells = new Uint32Array(count * 3)
    this.head = this.bucketAt(time)
  }

  /** Lets go of what is too old. */
  advance(time: number): void {
    const head = this.bucketAt(time)
    const passed = head - this.head
    if (passed <= 0) return
    this.head = head
    // All of it, also what a cell could not count.
    if (passed >= this.count) {
      this.cells.fill(0)
      this.calls = 0
      this.failures = 0
      this.slow = 0
      return
    }
    for (let back = 0; back < passed; back++) {
      const at = this.cell(head - back)
      this.calls -= this.cells[at] ?? 0
      this.failures -= this.cells[at + 1] ?? 0
      this.slow -= this.cells[at + 2] ?? 0
      this.cells.fill(0, at, at + 3)
    }
  }

  push(failed: boolean, slow: boolean): void {
    this.add(this.head, [1, failed ? 1 : 0, slow ? 1 : 0])
  }

  /** The oldest bucket first. */
  content(): ReadonlyArray<Bucket> {
    const found: Array<Bucket> = []
    for (let back = this.count - 1; back >= 0; back--) {
      const at = this.cell(this.head - back)
      found.push([this.cells[at] ?? 0, this.cells[at + 1] ?? 0, this.cells[at + 2] ?? 0])
    }
    return found
  }

  /** When the newest bucket began. */
  get since(): number {
    return (this.head * this.over) / this.count
  }

  /** `since` is when the newest of the buckets began, by the time that is given here. */
  static from(over: number, content: ReadonlyArray<Bucket>, since: number, time: number): TimeWindow {
    const window = new TimeWindow(over, content.length, time)
    // The middle of the bucket, so that a width that is no whole number cannot round into the one before.
    const age = Math.max(0, window.head - window.bucketAt(since + over / content.length / 2))
    // As many of the oldest are too old by now. In the ring, what comes after the newest is the oldest.
    for (const [index, bucket] of content.slice(age).entries()) window.add(window.head + 1 + index, bucket)
    return window
  }

  private add(number: number, bucket: Bucket): void {
    const at = this.cell(number)
    this.cells[at] = (this.cells[at] ?? 0) + bucket[0]
    this.cells[at + 1] = (this.cells[at + 1] ?? 0) + bucket[1]
    this.cells[at + 2] = (this.cells[at + 2] ?? 0) + bucket[2]
    this.calls += bucket[0]
    this.failures += bucket[1]
    this.slow += bucket[2]
  }

  private bucketAt(time: number): number {
    return Math.floor((time * this.count) / this.over)
  }

  private cell(number: number): number {
    return (((number % this.count) + this.count) % this.count) * 3
  }
}
