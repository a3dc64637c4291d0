/**
 * The signal that each operation of the driver is given. Node's own costs a fifth of what finding one document does (it is
 * a target of events that hold their listeners weakly); this one is what the driver uses of it and nothing else. Who
 * passes a signal on to somebody else gets Node's: `toNative`.
 */

/** A signal that is its own controller. */
export class Abort implements AbortSignal {
  aborted = false
  reason: unknown = undefined
  onabort: AbortSignal["onabort"] = null
  readonly #listeners: Array<EventListenerOrEventListenerObject> = []

  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null): void {
    if (type === "abort" && listener !== null && !this.#listeners.includes(listener)) this.#listeners.push(listener)
  }

  removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null): void {
    if (type !== "abort" || listener === null) return
    const index = this.#listeners.indexOf(listener)
    if (index >= 0) this.#listeners.splice(index, 1)
  }

  dispatchEvent(event: Event): boolean {
    if (event.type !== "abort") return true
    this.onabort?.(event)
    // Each of them is told once.
    for (const listener of this.#listeners.splice(0)) {
      if (typeof listener === "function") Reflect.apply(listener, this, [event])
      else listener.handleEvent(event)
    }
    return true
  }

  throwIfAborted(): void {
    if (this.aborted) throw this.reason
  }

  /** Tells who listens, once. */
  abort(reason: Error): void {
    if (this.aborted) return
    this.aborted = true
    this.reason = reason
    this.dispatchEvent(new Event("abort"))
  }

  /** The same as one of Node's. */
  toNative(): AbortSignal {
    const native = new AbortController()
    if (this.aborted) native.abort(this.reason)
    else this.addEventListener("abort", () => native.abort(this.reason))
    return native.signal
  }
}
