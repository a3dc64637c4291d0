/**
 * Which statements are prepared: those that are met a second time, as many as there is room for. Each connection knows
 * which of them it has prepared itself.
 */
import type { Field, Prepared } from "./query.ts"

/** What one connection has prepared. */
export interface SessionStatements {
  /** How to run a statement; undefined as an unnamed one. */
  readonly prepare: (sql: string) => Prepared | undefined
  readonly parsed: (name: string) => void
  /** Its columns, once it has run: none for a statement without rows. */
  readonly described: (name: string, fields: ReadonlyArray<Field>) => void
  readonly forget: (name: string) => void
}

export interface Statements {
  readonly session: () => SessionStatements
}

const maxLength = 20_000

export const make = (max: number): Statements => {
  // The least recently used first, as Maps keep their order.
  const seen = new Map<string, string | undefined>()
  let names = 0
  const nameOf = (sql: string): string | undefined => {
    if (sql.length > maxLength) return undefined
    const known = seen.has(sql)
    const name = known ? (seen.get(sql) ?? `underlay_${names++}`) : undefined
    seen.delete(sql)
    seen.set(sql, name)
    if (seen.size > max * 2) {
      const [oldest] = seen.keys()
      if (oldest !== undefined) seen.delete(oldest)
    }
    return name
  }
  return {
    session: () => {
      const mine = new Map<string, ReadonlyArray<Field> | undefined>()
      // What the server may still have under a name that is not to be used as it is.
      const stale = new Set<string>()
      return {
        prepare: (sql) => {
          const name = nameOf(sql)
          if (name === undefined) return undefined
          const fields = mine.get(name)
          const parsed = mine.delete(name)
          if (parsed) mine.set(name, fields)
          let evicted: string | undefined
          if (stale.delete(name)) return { name, parsed: false, evicted: name, fields: undefined }
          if (!parsed && mine.size >= max) {
            ;[evicted] = mine.keys()
            if (evicted !== undefined) mine.delete(evicted)
          }
          return { name, parsed, evicted, fields }
        },
        parsed: (name) => {
          mine.set(name, undefined)
        },
        described: (name, fields) => {
          if (mine.has(name)) mine.set(name, fields)
        },
        forget: (name) => {
          mine.delete(name)
          stale.add(name)
        }
      }
    }
  }
}
