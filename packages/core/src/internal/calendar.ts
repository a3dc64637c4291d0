/**
 * Windows of the calendar: which hour, day, week, month or year of a time zone a moment is in.
 */
import * as DateTime from "effect/DateTime"
import * as Option from "effect/Option"

export type Unit = "hour" | "day" | "week" | "month" | "year"

export const units: ReadonlyArray<Unit> = ["hour", "day", "week", "month", "year"]

/** From `start` on, until just before `end`; milliseconds since 1970. */
export interface Window {
  readonly start: number
  readonly end: number
}

const hour = 60 * 60 * 1_000

const steps = { day: { days: 1 }, week: { weeks: 1 }, month: { months: 1 }, year: { years: 1 } } as const

const monday = { weekStartsOn: 1 } as const

/** The time zone of that name, if there is one. */
export const zone = (name: string): DateTime.TimeZone | undefined =>
  Option.getOrUndefined(DateTime.zoneFromString(name))

/**
 * The window that a moment is in. Weeks begin on Monday. An hour is one of UTC whatever the zone: those of a zone are
 * not all of one length.
 */
export const windowOf = (unit: Unit, zone: DateTime.TimeZone, now: number): Window => {
  if (unit === "hour") {
    const start = Math.floor(now / hour) * hour
    return { start, end: start + hour }
  }
  const start = DateTime.startOf(DateTime.setZone(DateTime.unsafeMake(now), zone), unit, monday)
  // a day that begins late, because its midnight is left out, is followed by one that begins at midnight
  const end = DateTime.startOf(DateTime.add(start, steps[unit]), unit, monday)
  return { start: DateTime.toEpochMillis(start), end: DateTime.toEpochMillis(end) }
}
