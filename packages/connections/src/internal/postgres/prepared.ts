/**
 * Which statements are prepared: those that are met a second time, as many as there is room for. Each connection knows
 * which of them it has prepared itself.
 */
import type { Prepared } from "./query.ts"

/** What one connection has prepared. */
export interface SessionStatements {
  /** How to run a statement; undefined as an unnamed one. */
  readonly prepare: (sql: string) => Prepared | undefined
  readonly parsed: (name: string) => void
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
      const mine = new Set<string>()
      // What the server may still have under a name that is not to be used as it is.
      const stale = new Set<string>()
      return {
        prepare: (sql) => {
          const name = nameOf(sql)
          if (name === undefined) return undefined
          const parsed = mine.delete(name)
          if (parsed) mine.add(name)
          let evicted: string | undefined
          if (stale.delete(name)) return { name, parsed: false, evicted: name }
          if (!parsed && mine.size >= max) {
            ;[evicted] = mine
            if (evicted !== undefined) mine.delete(evicted)
          }
          return { name, parsed, evicted }
        },
        parsed: (name) => {
          mine.add(name)
        },
        forget: (name) => {
          mine.delete(name)
          stale.add(name)
        }
      }
    }
  }
}
