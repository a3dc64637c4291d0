/**
 * The last good values by key, each with its age: bounded, and without a timer.
 */
import { ExpiringMap } from "../expiringMap.ts"

interface Kept<A> {
  readonly value: A
  readonly since: number
}

export class StaleValues<A> {
  private readonly entries: ExpiringMap<Kept<A>>
  private readonly maxAge: number

  constructor(capacity: number, maxAge: number) {
    this.entries = new ExpiringMap(capacity)
    this.maxAge = maxAge
  }

  get size(): number {
    return this.entries.size
  }

  set(key: string, value: A, now: number): void {
    this.entries.set(key, { value, since: now }, now + this.maxAge, now)
  }

  get(key: string, now: number): { readonly value: A; readonly age: number } | undefined {
    const kept = this.entries.get(key, now)
    if (kept === undefined) return undefined
    if (kept.since > now) {
      // The clock was set back: from here on it ages as any other, instead of living as much longer.
      this.set(key, kept.value, now)
      return { value: kept.value, age: 0 }
    }
    return { value: kept.value, age: now - kept.since }
  }

  delete(key: string, now: number): void {
    this.entries.delete(key, now)
  }
}
