/** How the tables of vectors are. */

/**
 * An approximate index (HNSW). It makes searches in large collections fast and may miss some of the nearest. Filters are
 * kept whole: the index is scanned on until enough records pass (`hnsw.iterative_scan`, pgvector 0.8).
 *
 * Up to 2,000 dimensions the index holds what the table does; up to 4,000 it holds numbers of half the precision
 * (`halfvec`) and what it finds is compared in full. Under cosine that takes nothing away; for l2 and dot the numbers of
 * such vectors must not be larger than 65,504, and those below 6e-8 are lost on the index.
 *
 * @since 0.1.0
 * @category models
 */
export interface HnswOptions {
  /** Links of a point: 16. */
  readonly m?: number | undefined
  /** Candidates while building: 64, or twice `m` if that is more. */
  readonly efConstruction?: number | undefined
  /** Candidates while searching, 1 to 1000: 100, and never fewer than the limit of the query. */
  readonly efSearch?: number | undefined
  /** How many points a filtered search may look at before it gives up: 1,000,000. */
  readonly maxScanTuples?: number | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface PgVectorOptions {
  /** The schema of the tables; made if absent. Without one, the first of the search path. */
  readonly schema?: string | undefined
  /** What the tables' names begin with: `underlay_vectors`. */
  readonly prefix?: string | undefined
  /**
   * Collections made from now on get this index (`true`: with the usual numbers), unless `ensureCollection` is told
   * otherwise. Without one, searches are exact and read the whole collection.
   */
  readonly hnsw?: HnswOptions | boolean | undefined
  /**
   * Whether collections made from now on keep the words of their documents for searches by words and hybrid ones: true.
   * Without them writing is cheaper, and such a search reads every document.
   */
  readonly textSearch?: boolean | undefined
}
