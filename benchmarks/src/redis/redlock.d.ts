/** What is used of redlock 4, which comes without types. */
declare module "redlock" {
  export interface Lock {
    unlock(): Promise<void>
  }
  export default class Redlock {
    constructor(clients: Array<object>, options?: { readonly retryCount?: number })
    lock(resource: string, ttl: number): Promise<Lock>
  }
}
