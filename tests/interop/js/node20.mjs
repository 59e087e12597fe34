// libp2p 3 uses Promise.withResolvers, which Node has from version 22 on. Imported before anything of libp2p.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((...both) => { [resolve, reject] = both })
  return { promise, resolve, reject }
}
