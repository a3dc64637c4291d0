/**
 * Time that only goes forward, counted from the readings of a clock that may be set back or forth: what passed between
 * two readings, or nothing where the later one is earlier.
 */
export class Elapsed {
  /** How often the clock was seen to go back. */
  steps = 0
  private total = 0
  private last: number | undefined = undefined

  /** Whole milliseconds since the first reading. */
  at(now: number): number {
    const reading = Math.floor(now)
    if (this.last !== undefined) {
      if (reading >= this.last) this.total += reading - this.last
      else this.steps++
    }
    this.last = reading
    return this.total
  }

  /** Counts time that is known to have passed although the clock does not show it. */
  add(millis: number): number {
    this.total += millis
    return this.total
  }
}
