// CANN's graph engine (ge::) as far as MindSpore needs it to load: operators have a name and a type, and shapes are empty.
// Layouts: CANN's graph/operator.h, tensor.h, ascend_string.h, each class a shared pointer to what it holds. Compiled with
// the old ABI of std::string, which is CANN's.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

extern "C" void say_thread(const char *function);

namespace ge {
enum DataType : int {};
enum Format : int {};

class AscendString {
 public:
  AscendString() = default;
  AscendString(const char *text);
  const char *GetString() const;
  bool operator<(const AscendString &other) const;

 private:
  std::shared_ptr<std::string> text_;
};

AscendString::AscendString(const char *text) : text_(new std::string(text ? text : "")) {}
const char *AscendString::GetString() const { return text_ ? text_->c_str() : ""; }
bool AscendString::operator<(const AscendString &other) const { return std::string(GetString()) < other.GetString(); }

class Shape {
 public:
  Shape();
  explicit Shape(const std::vector<int64_t> &dimensions);
  std::vector<int64_t> GetDims() const;

 private:
  std::shared_ptr<std::vector<int64_t>> dimensions_;
};

Shape::Shape() {}
Shape::Shape(const std::vector<int64_t> &dimensions) : dimensions_(new std::vector<int64_t>(dimensions)) {}
std::vector<int64_t> Shape::GetDims() const { return dimensions_ ? *dimensions_ : std::vector<int64_t>(); }

class TensorDesc {
 public:
  TensorDesc();
  TensorDesc(Shape shape, Format format, DataType type);
  TensorDesc(const TensorDesc &other);
  TensorDesc(TensorDesc &&other);
  Shape GetShape() const;

 private:
  std::shared_ptr<Shape> shape_;
};

TensorDesc::TensorDesc() {}
TensorDesc::TensorDesc(Shape shape, Format, DataType) : shape_(new Shape(shape)) {}
TensorDesc::TensorDesc(const TensorDesc &other) : shape_(other.shape_) {}
TensorDesc::TensorDesc(TensorDesc &&other) : shape_(other.shape_) {}
Shape TensorDesc::GetShape() const { return shape_ ? *shape_ : Shape(); }

class Tensor {
 public:
  Tensor();
  explicit Tensor(const TensorDesc &description);
  Tensor(const TensorDesc &description, const uint8_t *data, size_t size);
  TensorDesc GetTensorDesc() const;

 private:
  std::shared_ptr<TensorDesc> description_;
};

Tensor::Tensor() {}
Tensor::Tensor(const TensorDesc &description) : description_(new TensorDesc(description)) {}
Tensor::Tensor(const TensorDesc &description, const uint8_t *, size_t) : Tensor(description) {}
TensorDesc Tensor::GetTensorDesc() const { return description_ ? *description_ : TensorDesc(); }

class Operator {
 public:
  explicit Operator(const char *type);
  explicit Operator(const std::string &type);
  Operator(const char *name, const char *type);
  Operator(const std::string &name, const std::string &type);
  Operator(const AscendString &name, const AscendString &type);
  virtual ~Operator() = default;
  std::string GetName() const;
  std::string GetOpType() const;
  unsigned GetName(AscendString &name) const;
  unsigned GetOpType(AscendString &type) const;

 private:
  struct Named {
    std::string name, type;
  };
  std::shared_ptr<Named> named_;
};

Operator::Operator(const std::string &name, const std::string &type) : named_(new Named{name, type}) {}
Operator::Operator(const std::string &type) : Operator(type, type) {}
Operator::Operator(const char *type) : Operator(std::string(type)) {}
Operator::Operator(const char *name, const char *type) : Operator(std::string(name), std::string(type)) {}
Operator::Operator(const AscendString &name, const AscendString &type) : Operator(name.GetString(), type.GetString()) {}
std::string Operator::GetName() const { return named_ ? named_->name : ""; }
std::string Operator::GetOpType() const { return named_ ? named_->type : ""; }
unsigned Operator::GetName(AscendString &name) const {
  name = AscendString(GetName().c_str());
  return 0;
}
unsigned Operator::GetOpType(AscendString &type) const {
  type = AscendString(GetOpType().c_str());
  return 0;
}

class OperatorFactory {
 public:
  static bool IsExistOp(const char *type);
  static bool IsExistOp(const std::string &type);
  static Operator CreateOperator(const char *name, const char *type);
  static Operator CreateOperator(const std::string &name, const std::string &type);
};

bool OperatorFactory::IsExistOp(const char *) { return true; }
bool OperatorFactory::IsExistOp(const std::string &) { return true; }
Operator OperatorFactory::CreateOperator(const char *name, const char *type) { return Operator(name, type); }
Operator OperatorFactory::CreateOperator(const std::string &name, const std::string &type) { return Operator(name, type); }

// Libraries of MindSpore 2.10 enter their errors here as they load.
class StatusFactory {
 public:
  static StatusFactory *Instance();

 private:
  std::map<uint32_t, std::string> descriptions_;
};

StatusFactory *StatusFactory::Instance() {
  static StatusFactory factory;
  return &factory;
}

unsigned GEInitialize(const std::map<std::string, std::string> &options);
unsigned GEInitialize(const std::map<std::string, std::string> &) {
  say_thread("ge::GEInitialize");
  return 0;
}
}  // namespace ge
