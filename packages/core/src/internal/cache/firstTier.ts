/**
 * The tier of a cache in this process: decoded values, kept only while every change made elsewhere is heard of. What is
 * being read or written while a change arrives is not kept here.
 */
import type * as Option from "effect/Option"
import { ExpiringMap } from "../expiringMap.ts"

/** A kept value. */
export interface Cell<A> {
  readonly value: Option.Option<A>
  /** By the clock of this process. */
  readonly freshUntil: number
  readonly took: number
  readonly tags: ReadonlyArray<string>
  /** The count of tag changes when reading or computing it began. */
  readonly sequence: number
}

/** Something that may become a cell, from before the backend was asked until its answer is known. */
export interface Fill {
  outdated: boolean
  readonly sequence: number
  readonly writes: boolean
  users: number
}

export class FirstTier<A> {
  private cells: ExpiringMap<Cell<A>>
  private readonly reads = new Map<string, Fill>()
  /** They stay here until they have ended, whatever is said of their key meanwhile. */
  private readonly writes = new Map<string, Set<Fill>>()
  /** When a tag was last invalidated, as a count. */
  private readonly tagChanges = new Map<string, number>()
  private sequence = 0
  /** Whether all changes are heard of now. While they are not, nothing is kept and nothing is answered. */
  private live = false
  readonly capacity: number
  readonly ttl: number

  constructor(capacity: number, ttl: number) {
    this.capacity = capacity
    this.ttl = ttl
    this.cells = new ExpiringMap(capacity)
  }

  get size(): number {
    return this.cells.size
  }

  get(key: string, now: number): Cell<A> | undefined {
    if (!this.live) return undefined
    const cell = this.cells.get(key, now)
    if (cell === undefined || cell.tags.length === 0 || this.holds(cell)) return cell
    this.cells.delete(key, now)
    return undefined
  }

  /** Before the backend is asked for the key. Undefined: what it answers cannot be kept here. */
  beginRead(key: string): Fill | undefined {
    // who writes has the key for itself: what others read meanwhile may be the old value
    if (!this.live || this.writes.has(key)) return undefined
    const running = this.reads.get(key)
    if (running !== undefined) {
      running.users++
      return running
    }
    const fill: Fill = { outdated: false, sequence: this.sequence, writes: false, users: 1 }
    this.reads.set(key, fill)
    return fill
  }

  /**
   * Before the key is written or deleted. `since` is what was begun before the value was computed: it is not kept where
   * something came between, nor (null) where nothing could be begun.
   */
  beginWrite(key: string, since?: Fill | null): Fill {
    const running = this.writes.get(key)
    // of two writes at once nobody here knows which one comes last
    const outdated = !this.live || since === null || since?.outdated === true || running !== undefined
    this.remove(key)
    const fill: Fill = { outdated, sequence: since?.sequence ?? this.sequence, writes: true, users: 1 }
    if (running === undefined) this.writes.set(key, new Set([fill]))
    else running.add(fill)
    return fill
  }

  end(key: string, fill: Fill | undefined): void {
    if (fill === undefined) return
    if (fill.writes) {
      const running = this.writes.get(key)
      running?.delete(fill)
      if (running?.size === 0) this.writes.delete(key)
      return
    }
    fill.users--
    if (fill.users === 0 && this.reads.get(key) === fill) this.reads.delete(key)
  }

  put(
    key: string,
    fill: Fill | undefined,
    value: Option.Option<A>,
    left: number,
    took: number,
    tags: ReadonlyArray<string>,
    now: number
  ): void {
    if (fill === undefined || fill.outdated || !this.live || left <= 0) return
    const cell: Cell<A> = { value, freshUntil: now + left, took, tags, sequence: fill.sequence }
    this.cells.set(key, cell, now + Math.min(left, this.ttl), now)
  }

  /** The key was changed. */
  remove(key: string): void {
    this.cells.delete(key, 0)
    for (const fill of this.writes.get(key) ?? []) fill.outdated = true
    const reading = this.reads.get(key)
    if (reading === undefined) return
    reading.outdated = true
    this.reads.delete(key)
  }

  dropTags(tags: ReadonlyArray<string>): void {
    // each tag leaves a trace here: rather than to remember ever more of them, forget the cells
    if (this.tagChanges.size + tags.length > Math.max(1_000, this.capacity)) this.flush()
    this.sequence++
    for (const tag of tags) this.tagChanges.set(tag, this.sequence)
  }

  /** Anything may have changed. */
  flush(): void {
    this.cells = new ExpiringMap(this.capacity)
    for (const fill of this.reads.values()) fill.outdated = true
    this.reads.clear()
    for (const running of this.writes.values()) for (const fill of running) fill.outdated = true
    this.tagChanges.clear()
  }

  setLive(live: boolean): void {
    this.live = live
    this.flush()
  }

  private holds(cell: Cell<A>): boolean {
    for (const tag of cell.tags) {
      const changed = this.tagChanges.get(tag)
      if (changed !== undefined && changed > cell.sequence) return false
    }
    return true
  }
}
