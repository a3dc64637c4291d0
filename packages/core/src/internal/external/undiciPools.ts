/**
 * The pools that an `Agent` of `undici` made. It forgets one whose connections are gone, also where requests wait in it, and
 * ends without what goes on there.
 */

interface Pool {
  readonly destroyed: boolean
  readonly destroy: () => Promise<void>
}

export class UndiciPools {
  private readonly kept = new Set<Pool>()

  keep<P extends Pool>(pool: P): P {
    for (const one of this.kept) if (one.destroyed) this.kept.delete(one)
    this.kept.add(pool)
    return pool
  }

  async destroy(): Promise<void> {
    await Promise.all([...this.kept].map((pool) => pool.destroy()))
  }
}
