/** A map of the last `most` that were asked for or set: beyond that, the one used least recently goes. */
export interface Recent<V> {
  readonly get: (key: string) => V | undefined
  readonly set: (key: string, value: V) => void
  readonly delete: (key: string) => void
}

export const make = <V>(most: number): Recent<V> => {
  // The least recently used first, as Maps keep their order.
  const values = new Map<string, V>()
  return {
    get: (key) => {
      const value = values.get(key)
      if (value !== undefined) {
        values.delete(key)
        values.set(key, value)
      }
      return value
    },
    set: (key, value) => {
      values.delete(key)
      values.set(key, value)
      if (values.size > most) {
        const oldest = values.keys().next()
        if (oldest.done !== true) values.delete(oldest.value)
      }
    },
    delete: (key) => {
      values.delete(key)
    }
  }
}

/** How many collections a store knows: a few hundred bytes each. */
export const mostCollections = 10_000
