/**
 * A bounded map whose entries expire. It holds no timer: an expired entry is dropped when it is met, and every write
 * looks at a few more entries, so that what nobody asks for again goes too.
 */

interface Entry<V> {
  value: V
  expiresAt: number
}

/** Entries that one write looks at to find expired ones. */
const sweepSteps = 4

export class ExpiringMap<V> {
  private readonly entries = new Map<string, Entry<V>>()
  private cursor: IterableIterator<[string, Entry<V>]> | undefined
  readonly capacity: number
  private readonly onRemove: (key: string, value: V) => void

  constructor(capacity: number, onRemove: (key: string, value: V) => void = () => {}) {
    // what is not a number is no licence to grow for ever
    this.capacity = Math.max(1, Math.floor(capacity) || 1)
    this.onRemove = onRemove
  }

  get size(): number {
    return this.entries.size
  }

  /** The live value. Reading it makes it the last to be evicted. */
  get(key: string, now: number): V | undefined {
    const entry = this.live(key, now)
    if (entry === undefined) return undefined
    this.entries.delete(key)
    this.entries.set(key, entry)
    return entry.value
  }

  /** The live value, without making it the last to be evicted. */
  peek(key: string, now: number): V | undefined {
    return this.live(key, now)?.value
  }

  has(key: string, now: number): boolean {
    return this.live(key, now) !== undefined
  }

  /** When a live entry expires. */
  expiryOf(key: string, now: number): number | undefined {
    return this.live(key, now)?.expiresAt
  }

  set(key: string, value: V, expiresAt: number, now: number): void {
    this.sweep(now)
    this.remove(key)
    if (this.entries.size >= this.capacity) this.evict()
    this.entries.set(key, { value, expiresAt })
  }

  /** Changes when a live entry expires. That is a use, as reading is. */
  expireAt(key: string, expiresAt: number, now: number): boolean {
    const entry = this.live(key, now)
    if (entry === undefined) return false
    this.entries.delete(key)
    entry.expiresAt = expiresAt
    this.entries.set(key, entry)
    return true
  }

  delete(key: string, now: number): boolean {
    const existed = this.live(key, now) !== undefined
    this.remove(key)
    return existed
  }

  keys(): IterableIterator<string> {
    return this.entries.keys()
  }

  private live(key: string, now: number): Entry<V> | undefined {
    const entry = this.entries.get(key)
    if (entry === undefined) return undefined
    if (entry.expiresAt > now) return entry
    this.remove(key)
    return undefined
  }

  private remove(key: string): void {
    const entry = this.entries.get(key)
    if (entry === undefined) return
    this.entries.delete(key)
    this.onRemove(key, entry.value)
  }

  private evict(): void {
    for (const key of this.entries.keys()) {
      this.remove(key)
      return
    }
  }

  private sweep(now: number): void {
    for (let step = 0; step < sweepSteps; step++) {
      this.cursor ??= this.entries.entries()
      const next = this.cursor.next()
      if (next.done === true) {
        this.cursor = undefined
        return
      }
      const [key, entry] = next.value
      if (entry.expiresAt <= now) this.remove(key)
    }
  }
}
