declare module "memjs" {
  interface Client {
    readonly get: (key: string) => Promise<{ readonly value: Buffer | null }>
    readonly set: (key: string, value: Buffer, options: { readonly expires: number }) => Promise<boolean>
    readonly close: () => void
  }
  const memjs: { readonly Client: { readonly create: (servers: string) => Client } }
  export default memjs
}
